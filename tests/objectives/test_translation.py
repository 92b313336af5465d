"""Translations: sources of the data, a discriminator that sees them, and two domains without pairs that come home."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import make_cyclegan, make_restoration, make_translation, paired_batch, random_batch, run
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.losses.adversarial import LeastSquares, Relativistic
from trainer.networks import multiscale
from trainer.objectives.history import History
from trainer.objectives.restoration import require_sources
from trainer.tasks.inpainting import Inpainting


def test_the_source_is_that_of_the_data_and_the_discriminator_sees_it():
    objective, seen = make_translation(), {}
    real = objective.discriminator.features

    def features(image):
        seen.setdefault("images", []).append(image)
        return real(image)

    objective.discriminator.features = features
    run(objective, [paired_batch(4)])
    batch = paired_batch(4).as_float()
    first = seen["images"][0]
    torch.testing.assert_close(first, torch.cat([batch.image, batch.other.image], 1))
    assert all(torch.equal(image[:, 3:], batch.other.image) for image in seen["images"])


def test_image_and_source_are_augmented_alike():
    class Flip(nn.Module):
        num_draws = 1

        def forward(self, image, uniform):
            return torch.where(uniform[:, :, None, None] < 0.5, image.flip(3), image)

    objective, batch = make_translation(augment=Flip()), paired_batch(16).as_float()
    batch = replace(batch, condition=batch.condition._replace(source=batch.image))
    seen = objective.perceived(batch.image, batch, "discriminator/real")
    assert torch.equal(seen[:, :3], seen[:, 3:])
    assert not torch.equal(seen[:, :3], batch.image)


def test_every_picture_of_a_shared_caption_counts_in_feature_matching():
    """A source tells them apart."""
    objective = make_translation(feature_matching=1.0)
    objective.trainer = SimpleNamespace(datamodule=SimpleNamespace(
        paired=True, train=SimpleNamespace(cache=SimpleNamespace(sources=1), unshared=torch.zeros(9, dtype=torch.bool)),
    ))  # fmt: skip
    objective._trainer = objective.trainer
    objective.on_fit_start()
    assert objective.unshared is None


def test_channels_of_the_discriminator_must_be_those_that_it_sees():
    with pytest.raises(UserError, match=r"expected 3; take .*image_channels=3"):
        make_translation(sees_source=False)
    judge = multiscale.Discriminator(16, 12, nn.Identity(), num_scales=1, num_downs=1)
    with pytest.raises(UserError, match=r"sees images of 3 channels.*expected 6"):
        make_translation(discriminator=judge)
    wide = multiscale.Discriminator(16, 12, nn.Identity(), 7, num_scales=1, num_downs=1)
    run(make_restoration(task=Inpainting(), discriminator=wide, sees_source=True), [random_batch(4)])


def test_data_without_sources_or_pairs_are_refused():
    def data(sources, paired):
        return SimpleNamespace(train=SimpleNamespace(cache=SimpleNamespace(sources=sources)), paired=paired)

    require_sources(None)
    require_sources(data(1, True))
    require_sources(data(1, False), paired=False)
    with pytest.raises(UserError, match="take data=emoji_pairs"):
        require_sources(data(None, True))
    with pytest.raises(UserError, match="cyclegan where there are no pairs"):
        require_sources(data(1, False))


def l1(a, b):
    return (a - b).abs().mean()


def test_the_generators_minimise_what_the_paper_says():
    objective, seen = make_cyclegan(cycle=7.0, identity=3.0), {}

    def keep(batch, loss=objective.generator_loss):
        value, logs = loss(batch)

        def draw(side, image, condition, stream):
            latent = objective.normal(f"generator{stream}/{side}", batch, objective.latent_channels)
            return getattr(objective.generator, side)(latent, condition._replace(source=image))

        x, k, s, c = batch.image, batch.condition, batch.other.image, batch.other.condition
        there, back = draw("there", s, c, ""), draw("back", x, k, "")
        fooled = sum(
            (getattr(objective.discriminator, side)(image, condition) - 1).square().mean()
            for side, image, condition in (("there", there, c), ("back", back, k))
        )
        home = l1(draw("back", there, c, "/cycle"), s) + l1(draw("there", back, k, "/cycle"), x)
        same = l1(draw("there", x, k, "/identity"), x) + l1(draw("back", s, c, "/identity"), s)
        seen["pair"] = value.detach(), (fooled + 7 * home + 3 * same) / 2
        return value, logs

    objective.phases["generator"] = keep
    run(objective, [paired_batch(8)])
    torch.testing.assert_close(*seen["pair"])
    assert {"generator/cycle", "generator/identity", "generator/adversarial"} <= objective.logs.keys()


def test_each_discriminator_judges_its_own_domain():
    objective, seen = make_cyclegan(history=0), {}

    def keep(batch, loss=objective.discriminator_loss):
        value, logs = loss(batch)
        x, k, s, c = batch.image, batch.condition, batch.other.image, batch.other.condition
        with torch.no_grad():
            there, back = objective.draw("there", c._replace(source=s), batch, "discriminator"), objective.draw(
                "back", k._replace(source=x), batch, "discriminator"
            )
        D, E = objective.discriminator.there, objective.discriminator.back  # noqa: N806
        expected = (D(x, k) - 1).square().mean() + D(there, c).square().mean()
        expected = expected + (E(s, c) - 1).square().mean() + E(back, k).square().mean()
        seen["pair"] = value.detach(), expected.detach() / 2
        return value, logs

    objective.phases["discriminator"] = keep
    run(objective, [paired_batch(8)])
    torch.testing.assert_close(*seen["pair"])


def test_its_numbers_are_checked():
    with pytest.raises(UserError, match=r"cycle=-1, identity=5.0"):
        make_cyclegan(cycle=-1)
    with pytest.raises(UserError, match="sources have none"):
        make_cyclegan(loss=Relativistic())
    with pytest.raises(UserError, match=r"objective.history=4: expected at least data.batch_size=8"):
        History(4, 0, "there").require_room(8)
    assert (LeastSquares().generator(torch.tensor([1.0, 3.0])) == torch.tensor([0.0, 4.0])).all()


def steps_of(history, starts, size):
    """Numbers of the images that are judged in each step; those drawn have the number of their position."""
    found = []
    for start in starts:
        position = torch.arange(start, start + size)
        number = position.float().view(-1, 1)
        condition = Condition(number[:, None], torch.ones(size, 1, dtype=torch.bool), number)
        drawn = number.view(-1, 1, 1, 1).expand(-1, 3, 2, 2), condition
        images, kept = history.exchange(drawn, position, start, lambda rows: rows)
        assert torch.equal(images[:, 0, 0, 0], kept.pooled[:, 0])
        found.append(images[:, 0, 0, 0])
    return found


def test_a_history_gives_back_older_images_and_keeps_the_new_ones():
    history = History(8, 0, "there")
    steps = steps_of(history, range(0, 400, 4), 4)
    for number, judged in enumerate(steps[:2]):
        assert judged.tolist() == [*range(4 * number, 4 * number + 4)]  # while it fills, new ones alone
    later = torch.cat(steps[2:])
    new = torch.cat([torch.arange(4 * i, 4 * i + 4) for i in range(2, 100)]).float()
    assert 0.4 < (later == new).float().mean() < 0.6
    assert (later <= new).all()
    assert len(set(later[later != new].tolist())) == (later != new).sum(), "an image leaves once"


def exchanged(history, start, size=8):
    """Of a step with features as data have them, float16 made float32."""
    draw = torch.Generator().manual_seed(start)
    tokens = torch.randn(size, 3, 4, generator=draw).half().float()
    mask = torch.ones(size, 3, dtype=torch.bool)
    drawn = torch.randn(size, 3, 4, 4, generator=draw), Condition(tokens, mask, tokens[:, 0])
    image, condition = history.exchange(drawn, torch.arange(start, start + size), start, lambda rows: rows)
    return image, *condition[:3]


def test_conditions_are_kept_in_half_the_room_with_the_same_bits_also_from_a_checkpoint_of_before():
    history, before = History(16, 0, "there"), History(16, 0, "there")
    exchanged(history, 0), exchanged(before, 0)
    kinds = [part.dtype for part in history.state if part is not None]
    assert kinds == [torch.float32, torch.float16, torch.bool, torch.float16]
    before.state = [part if part is None or part.dtype != torch.float16 else part.float() for part in before.state]
    for start in range(8, 200, 8):
        for one, other in zip(exchanged(history, start), exchanged(before, start), strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype
    assert before.state[1].dtype == torch.float32
