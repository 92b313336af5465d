"""truncation=0.7: of styles alone, the same in any company, and refused where there are none."""

import pytest
import torch
from torch import nn

from tests.sampling.test_sampler import CAPTIONS, LATENT, SEEDS, WIDTH, Objective, Text, same
from trainer.errors import UserError
from trainer.networks import dcgan, stylegan2
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sampler import Sampler


def make(family):
    torch.manual_seed(0)
    objective = Objective(family.Generator(32, LATENT, WIDTH, nn.Identity(), base_channels=8, max_channels=32)).eval()
    objective.draws_with, objective.config = "generator", {}
    return objective


def test_a_seed_is_the_truncated_image_of_its_style():
    objective = make(stylegan2)
    plain, half = (Sampler(objective, Text(), conditioning=Conditioning(truncation=t)) for t in (None, 0.5))
    images = half(CAPTIONS, SEEDS)
    for chosen in ([0], [88, 4, 17], list(range(40))):
        alone = half([CAPTIONS[i] for i in chosen], [SEEDS[i] for i in chosen])
        assert same(alone, images[chosen], half.exact)
    objective.generator.truncation = 0.5
    assert torch.equal(plain(CAPTIONS, SEEDS), images)
    objective.generator.truncation = 1.0
    whole = Sampler(objective, Text())(CAPTIONS, SEEDS)
    same_caption = slice(0, None, 3)

    def spread(drawn):
        return drawn[same_caption].float().std(0).mean()

    assert spread(images) < 0.8 * spread(whole), "seeds of a caption come nearer to each other"
    assert objective.generator.truncation == 1, "nothing of it stays"


def test_what_has_no_styles_is_refused():
    with pytest.raises(UserError, match=r"truncation=0.7: Generator has no styles to be truncated; leave it out"):
        Sampler(make(dcgan), Text(), conditioning=Conditioning(truncation=0.7))
    with pytest.raises(UserError, match=r"truncation=-1: expected a number from 0"):
        Conditioning(truncation=-1)
    Conditioning(truncation=0.7).require({}, wordless=True)
