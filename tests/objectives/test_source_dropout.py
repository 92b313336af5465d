"""Sources and captions, each droppable: what no source is, what is asked of it, and guidance by both."""

from dataclasses import replace

import pytest
import torch
from conftest_objectives import (
    RESOLUTION,
    features_of,
    make_cyclegan,
    make_restoration,
    paired_batch,
    random_batch,
    run,
)
from torch import nn

from trainer import noise
from trainer.errors import UserError
from trainer.losses.reconstruction import l2
from trainer.networks import multiscale
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sampler import NO_SOURCE, Sampler
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.enhancement import Enhancement
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.restoration import Restoration
from trainer.tasks.super_resolution import SuperResolution
from trainer.tasks.translation import Translation

KINDS = (Colorization, Denoising, Enhancement, Inpainting, Restoration, SuperResolution, Translation)
CONFIG = {"text": {"caption_dropout": 0.1}}


def pictures(count, side=RESOLUTION, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(task=None, **changes):
    """Its images are far from grey, and differ by caption and source."""
    objective = make_restoration(task=task or Denoising(source_dropout=0.5), **changes).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in objective.generator.named_parameters():
            if name.endswith(("out.weight", "image.weight")):
                parameter.normal_(std=0.3)
    objective.config = CONFIG
    return objective


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_sources_is_none_by_position_alone(kind):
    task, plain, images, position = kind(source_dropout=0.4), kind(), pictures(200), torch.arange(200) + 100
    made = task(images, 3, position)
    assert torch.equal(made, plain(images, 3, position))
    found = task.dropped(made, 3, position)
    chosen = noise.uniform(3, "task/source dropout", position, 1)[:, 0] < 0.4
    assert 50 < chosen.sum() < 110
    assert torch.equal(task.absent(found), chosen)
    assert found.shape[1] == task.source_channels == plain.source_channels + (kind is not Inpainting)
    assert torch.equal(found[chosen], task.nothing(int(chosen.sum()), found.shape[-1]))
    assert not found[chosen][:, :-1].any() and (found[chosen][:, -1] == 1).all()
    assert torch.equal(found[~chosen][:, : made.shape[1]], made[~chosen])
    if kind is not Inpainting:
        assert (found[~chosen][:, -1] == -1).all()
    halves = [task.dropped(task(images[i : i + 100], 3, position[i : i + 100]), 3, position[i : i + 100])
              for i in (0, 100)]  # fmt: skip
    assert torch.equal(task.absent(torch.cat(halves)), chosen)
    assert task.start(found).shape == images.shape
    assert not task.start(found)[chosen].any()
    assert torch.equal(task.keep(images, found)[chosen], images[chosen]), "nothing is known of it"


@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_nothing_changes(kind):
    task, images = kind(), pictures(8)
    made = task(images, 0, torch.arange(8))
    assert task.dropped(made, 0, torch.arange(8)) is made and task.marked(made) is made
    assert "source_dropout" not in str(task) and not task.absent(made).any()
    with pytest.raises(UserError, match=r"task.source_dropout=1: expected a share in \[0, 1\)"):
        kind(source_dropout=1)


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_distance_of_samples_without_a_source_has_a_weight_of_its_own(weight):
    objective = make_restoration(task=Denoising(source_dropout=0.5), pixel=3.0, adversarial=0.5, without_source=weight,
                                 perceptual=lambda x, y: (x - y).abs().flatten(1).mean(1))  # fmt: skip
    seen = {}

    def keep(batch, loss=objective.generator_loss):
        value, logs = loss(batch)
        restored, given = objective.generated(batch, "generator"), batch.condition.source[:, 3, 0, 0] == -1
        seen["given"] = given
        distances = 3 * l2(restored, batch.image) + (restored - batch.image).abs().flatten(1).mean(1)
        weighted = (torch.where(given, 1.0, weight) * distances).mean()
        seen["pair"] = value, weighted + 0.5 * objective.judged(restored, batch)[0]
        return value, logs

    objective.phases["generator"] = keep
    run(objective, [random_batch(8)])
    torch.testing.assert_close(*seen["pair"])
    assert 1 < seen["given"].sum() < 8


def test_features_are_matched_where_there_is_a_source():
    judge = multiscale.Discriminator(RESOLUTION, 12, nn.Identity(), 7, num_scales=1, num_downs=1)
    objective = make_restoration(task=Translation(0.5), sees_source=True, discriminator=judge)
    batch = paired_batch(8).as_float()
    task = objective.generator.task
    source = torch.cat([task.marked(batch.other.image)[:4], task.nothing(4, RESOLUTION)])
    batch = replace(batch, condition=batch.condition._replace(source=source), caption=torch.tensor([-1, *range(7)]))
    assert objective.paired(batch).tolist() == [False, True, True, True, False, False, False, False]


def test_weights_of_a_run_that_always_had_a_source_are_taken():
    old, new = trained(Denoising()), trained(Denoising(source_dropout=0.5))
    new.generator.load_state_dict(old.generator.state_dict())
    sampler, source = Sampler(old, features_of), pictures(3)
    assert torch.equal(Sampler(new, features_of)(["a", "b", "c"], range(3), source),
                       sampler(["a", "b", "c"], range(3), source))  # fmt: skip
    with pytest.raises(RuntimeError, match="size mismatch"):
        old.generator.load_state_dict(new.generator.state_dict())


@pytest.mark.parametrize("task", [Denoising(source_dropout=0.5), Inpainting(source_dropout=0.5),
                                  SuperResolution(source_dropout=0.5), Colorization(0.5)])  # fmt: skip
def test_one_seed_is_one_image_with_a_source_and_without(task):
    objective, captions = trained(task), [f"picture {'I' * (i % 3)}" for i in range(20)]
    sources = task(pictures(20), 0, torch.arange(20))
    for given in (None, sources):
        for settings in ({}, {"guidance": 2.0} if given is None else {"guidance": 2.0, "source_guidance": 1.5}):
            sampler = Sampler(objective, features_of, conditioning=Conditioning(**settings))
            whole = sampler(captions, range(20), given)
            assert whole.shape == (20, 3, RESOLUTION, RESOLUTION)
            for part in (slice(0, 1), slice(2, 19)):
                some = Sampler(objective, features_of, 4, conditioning=Conditioning(**settings))(
                    captions[part], range(20)[part], None if given is None else given[part]
                )
                assert (some.int() - whole[part].int()).abs().max() <= 1
    sampler = Sampler(objective, features_of)
    drawn = sampler.draw(sampler.latents(range(2)), sampler.conditions(captions[:2]))
    assert (drawn.int() - sampler(captions[:2], range(2)).int()).abs().max() <= 1
    assert not torch.equal(drawn, sampler(captions[:2], range(2), sources[:2]))


def test_guidance_by_both_is_equation_3_of_instruct_pix2pix():
    objective = trained()
    task, condition = objective.generator.task, features_of(["a red star", "a blue cross"])
    source = task.marked(task(pictures(2), 0, torch.arange(2)))
    sampler = Sampler(objective, features_of, conditioning=Conditioning(guidance=3.0, source_guidance=1.5))
    latent = sampler.latents(range(2))
    empty = features_of([""]).rows([0, 0])
    with torch.no_grad():
        neither, image, both = (
            objective.generator(latent, each._replace(source=start))
            for each, start in ((empty, task.nothing(2, RESOLUTION)), (empty, source), (condition, source))
        )
        expected = (neither + 1.5 * (image - neither) + 3.0 * (both - image)).clamp(-1, 1)
        given = condition._replace(source=source)
        found = sampler._draw.guided(latent, given)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        alone = sampler.conditioned(Conditioning(source_guidance=1.5))._draw.guided(latent, given)
        text = objective.generator(latent, condition._replace(source=task.nothing(2, RESOLUTION)))
        torch.testing.assert_close(alone, (text + 1.5 * (both - text)).clamp(-1, 1), atol=1e-5, rtol=0)
        plain = sampler.conditioned(Conditioning(guidance=1.0, source_guidance=1.0))
        torch.testing.assert_close(plain._draw.guided(latent, given), both, atol=1e-5, rtol=0)
    assert (neither - image).abs().max() > 0.1 and (both - image).abs().max() > 0.01


@pytest.mark.parametrize("task", [Inpainting(source_dropout=0.5), Colorization(0.5)])
def test_what_a_source_says_for_certain_comes_back_however_it_is_guided(task):
    objective, images = trained(task), pictures(4)
    source = task(images, 0, torch.arange(4))
    sampler = Sampler(objective, features_of, conditioning=Conditioning(guidance=2.0, source_guidance=4.0))
    drawn = sampler(["a", "b", "c", "d"], range(4), source).float() / 127.5 - 1
    if isinstance(task, Inpainting):
        known = (source[:, 3:] < 0).expand_as(drawn)
        assert (drawn - images)[known].abs().max() <= 1 / 127.5
    else:
        inside = (drawn.abs() < 0.98).all(1, keepdim=True)
        assert (task(drawn, 0, torch.arange(4)) - source)[inside].abs().max() <= 1.5 / 127.5


def test_what_a_run_has_not_learned_is_refused():
    plain, sampler = trained(Denoising()), Sampler(trained(), features_of)
    with pytest.raises(UserError, match=NO_SOURCE[:40]):
        Sampler(plain, features_of)(["a"], [0])
    with pytest.raises(UserError, match=r"source_guidance=2.0: this run has never drawn without a source"):
        Sampler(plain, features_of, conditioning=Conditioning(source_guidance=2.0))
    with pytest.raises(UserError, match=r"source_guidance: of a source, and none is given"):
        sampler.conditioned(Conditioning(source_guidance=2.0))(["a"], [0])
    with pytest.raises(UserError, match=r"source_guidance=-1: expected a number from 0"):
        Conditioning(source_guidance=-1)
    with pytest.raises(UserError, match="nothing else says what samples without a source are to be"):
        make_restoration(task=Denoising(source_dropout=0.1), adversarial=0.0, without_source=0.0)
    whole = make_cyclegan()
    whole.generator.back.task.source_dropout = 0.1
    with pytest.raises(UserError, match="a cycle comes home to its source, and has one"):
        type(whole)(whole.generator, whole.discriminator, whole.loss, optimizer={}, schedule=lambda _: 1.0, seed=0)


def test_a_wordless_run_is_guided_by_its_source():
    Conditioning(source_guidance=2.0).require({}, wordless=True)
    with pytest.raises(UserError, match="this model reads no captions"):
        Conditioning(source_guidance=2.0, guidance=2.0).require(CONFIG, wordless=True)
