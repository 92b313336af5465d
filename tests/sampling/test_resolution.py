"""resolution=[24,40]: of a run on several sizes, the same in any company, and refused where there is one."""

import pytest
import torch
from torch import nn

from tests.sampling.test_sampler import CAPTIONS, LATENT, SEEDS, WIDTH, Objective, Text, same
from trainer.errors import UserError
from trainer.exports import small_batches
from trainer.networks import dcgan, residual, stylegan2
from trainer.networks.worded import WordedGenerator
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sampler import Sampler
from trainer.size import Size

WIDE = Conditioning(resolution=[24, 40])


def make(family, config=None):
    torch.manual_seed(0)
    objective = Objective(family.Generator(32, LATENT, WIDTH, nn.Identity(), base_channels=8, max_channels=32)).eval()
    objective.draws_with, objective.config = "generator", config or {"data": {"buckets": [[24, 40], [32, 32]]}}
    return objective


@pytest.mark.parametrize("family", [dcgan, residual, stylegan2])
def test_a_seed_is_one_image_of_each_size(family):
    objective = make(family)
    plain = Sampler(objective, Text())
    before, wide = plain(CAPTIONS, SEEDS), plain.conditioned(WIDE)
    images = wide(CAPTIONS, SEEDS)
    assert images.shape == (len(SEEDS), 3, 24, 40)
    for chosen in ([0], [88, 4, 17], list(range(40))):
        alone = wide([CAPTIONS[i] for i in chosen], [SEEDS[i] for i in chosen])
        assert same(alone, images[chosen], wide.exact)
    assert torch.equal(plain(CAPTIONS, SEEDS), before), "nothing of it stays"
    own = plain.conditioned(Conditioning(resolution=32))
    assert same(own(CAPTIONS, SEEDS), before, own.exact and plain.exact)


def test_both_together():
    objective = make(stylegan2)
    sampler = Sampler(objective, Text(), conditioning=Conditioning(resolution=Size(24, 40), truncation=0.5))
    assert sampler(["a", "b"], [0, 1]).shape == (2, 3, 24, 40)
    assert objective.generator.truncation == 1 and objective.generator.canvas is None


def test_a_program_of_its_own_size_is_passed_by():
    objective = make(dcgan)
    expected = Sampler(objective, Text(), conditioning=WIDE)(["a"], [0])
    small_batches.onnxruntime(objective.generator, 4)
    assert same(Sampler(objective, Text(), conditioning=WIDE)(["a"], [0]), expected, False)
    assert not objective.generator._compiled_call_impl.programs


def test_behind_a_small_text_encoder():
    generator = make(dcgan).generator
    whole = WordedGenerator(nn.Identity(), generator)
    whole.canvas = Size(24, 40)
    assert generator.canvas == whole.canvas == Size(24, 40)
    generator.canvas = None
    assert whole.canvas is None


def test_what_draws_one_size_is_refused():
    with pytest.raises(UserError, match=r"resolution=24x40: this run has learned pictures of one size; train one with"):
        Sampler(make(dcgan, {"data": {}}), Text(), conditioning=WIDE)
    with pytest.raises(UserError, match=r"resolution=8: expected sides from 16 pixels, of a generator of 32"):
        Sampler(make(dcgan), Text(), conditioning=Conditioning(resolution=8))
    with pytest.raises(UserError, match=r"resolution=\[1, 2, 3\]: expected a number of pixels, or two"):
        Conditioning(resolution=[1, 2, 3])
    WIDE.require({"data": {"buckets": [[24, 40]]}}, wordless=True)
    assert len({WIDE, Conditioning(resolution=Size(24, 40))}) == 1 and str(WIDE) == "resolution=24x40"
