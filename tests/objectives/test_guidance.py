"""Caption dropout by position, the empty caption that it gives, and guidance in the image."""

import types

import pytest
import torch
from conftest_objectives import LATENT, make_gan, make_vae, random_batch
from torch.nn.functional import softplus

from trainer import noise
from trainer.errors import UserError
from trainer.objectives.guidance import DROPPED, dropped, empty_caption
from trainer.strategies.single import Single
from trainer.text.labels import Labels, Nothing
from trainer.text.scratch import HashTokenizer


@pytest.fixture()
def empty():
    return random_batch(1, start=99).as_float().condition


def drops(probability, empty, seed=0):
    gan = make_gan(seed=seed)
    gan.config, gan.empty_caption = {"text": {"caption_dropout": probability}}, empty
    return gan


def test_some_captions_become_the_empty_one_by_position_alone(empty):
    gan, batch = drops(0.3, empty), random_batch(400)
    found = gan.on_after_batch_transfer(batch, 0)
    chosen = noise.uniform(0, "caption dropout", batch.position, 1)[:, 0] < 0.3
    assert 80 < chosen.sum() < 160
    expected = batch.as_float()
    for part, other, own in zip(found.condition[:3], empty[:3], expected.condition[:3], strict=True):
        assert torch.equal(part[chosen], other.expand_as(part[chosen]))
        assert torch.equal(part[~chosen], own[~chosen])
    assert torch.equal(found.caption, torch.where(chosen, DROPPED, batch.caption))
    assert torch.equal(found.image, expected.image)
    halves = [gan.on_after_batch_transfer(batch[i : i + 200], 0) for i in (0, 200)]  # as two ranks, or a resumed run
    for one, *both in zip(found.condition[:3], *(half.condition[:3] for half in halves), strict=True):
        assert torch.equal(one, torch.cat(both))
    other = drops(0.3, empty, seed=1).on_after_batch_transfer(batch, 0)
    assert not torch.equal(other.caption, found.caption)


def test_without_dropout_a_batch_is_as_it_was(empty):
    for config in ({}, {"text": {"caption_dropout": 0.0}}):
        gan, batch = make_gan(), random_batch()
        gan.config = config
        found = gan.on_after_batch_transfer(batch, 0)
        assert torch.equal(found.caption, batch.caption)
        assert torch.equal(found.condition.tokens, batch.as_float().condition.tokens)


def test_no_image_is_told_apart_from_the_empty_caption(empty):
    gan, batch = drops(0.5, empty), random_batch().as_float()
    gan.matching = 1.0
    gan._trainer = types.SimpleNamespace(global_step=0, world_size=1, strategy=Single("cpu"))
    chosen = torch.tensor([True, True, True, False, False, True, False, False])
    batch = dropped(batch, empty, chosen)
    swapped = [1, 0, 3, 2, 5, 4, 7, 6]
    right = gan.discriminator(batch.image, batch.condition)
    wrong = gan.discriminator(batch.image, batch.condition.rows(swapped))
    counts = torch.tensor([0.0, 0, 1, 0, 0, 1, 1, 1])  # where the neighbour has a caption
    _, logs = gan.discriminator_loss(batch)
    torch.testing.assert_close(logs["discriminator/mismatch"], (counts * softplus(wrong - right)).mean())


@pytest.mark.parametrize("make", [make_gan, make_vae])
def test_guidance_is_an_extrapolation_from_another_condition(make, empty):
    objective, batch = make().eval(), random_batch().as_float()
    latent, away = torch.randn(8, LATENT), empty.rows([0] * 8)
    with torch.no_grad():
        image, other = objective.sample(latent, batch.condition), objective.sample(latent, away)
        for scale in (0.0, 1.0, 3.0):
            found = objective.guided(latent, batch.condition, away, scale)
            torch.testing.assert_close(found, (other + scale * (image - other)).clamp(-1, 1))
        assert torch.equal(objective.guided(latent, batch.condition, away, 1.0), image)
        assert objective.guided(latent, batch.condition, away, 1e4).abs().max() == 1


def test_the_empty_caption_of_each_kind_of_text_is_that_of_sampling():
    for text in (Labels(16, ["cat", "dog"]), HashTokenizer(64, 5)):
        found, drawn = empty_caption(text), text([""])
        assert found.mask.any()
        assert all(torch.equal(one, other) for one, other in zip(found[:3], drawn[:3], strict=True))
    with pytest.raises(UserError, match=r"text\.caption_dropout: this run reads no captions"):
        empty_caption(Nothing(16))
