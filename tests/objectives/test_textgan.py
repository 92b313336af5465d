"""A GAN and a captioner that teach each other: the losses as they are written, and who learns from what."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest_objectives import Pieces, captioned, captioned_batch, make_textgan, random_batch, run

from trainer.errors import UserError
from trainer.objectives.guidance import DROPPED
from trainer.sampling.captions import captions_of


def nats(objective, image, batch):
    """-log p of each caption, a mean over its pieces, piece by piece."""
    ids, mask = batch.condition.tokens, batch.condition.mask
    logs = objective.captioner(image, ids).log_softmax(-1)  # ids 0 to 9 are all written
    means = [-sum(row[i, own[i]] for i in range(n)) / n for row, own, n in zip(logs, ids, mask.sum(1), strict=True)]
    return torch.stack(means)


def seen_in_phases(objective, name, expected):
    """Runs one step, and gives the loss of a phase and what is expected of it at the same weights."""
    found = {}

    def keep(batch, loss=objective.phases[name]):
        value, logs = loss(batch)
        found["value"], found["expected"] = value.detach(), expected(batch).detach()
        return value, logs

    objective.phases[name] = keep
    run(objective, [random_batch(4)])
    return found["value"], found["expected"]


def test_the_generator_is_asked_for_images_that_their_captions_describe():
    objective = make_textgan(cycle=6.0, warmup_kimg=4.0, matching=1.0)
    objective.images_seen = 2000

    def expected(batch):
        generated = objective.generated(batch, "generator")
        return objective.judged(generated, batch)[0] + 3 * nats(objective, generated, batch).mean()

    torch.testing.assert_close(*seen_in_phases(objective, "generator", expected))
    assert {"generator/cycle", "generator/described", "captioner/right"} <= objective.logs.keys()


def test_the_captioner_learns_from_real_images_and_from_the_generators_last():
    objective = make_textgan(generated_pairs=0.5)
    drawn = []
    fresh = objective.fresh
    objective.fresh = lambda batch: drawn.append(fresh(batch)) or drawn[-1]

    def expected(batch):
        return (nats(objective, batch.image, batch) + 0.5 * nats(objective, drawn[-1], batch)).mean()

    torch.testing.assert_close(*seen_in_phases(objective, "captioner", expected))
    assert not objective.drawn


@pytest.mark.parametrize("weights", [{"cycle": 0.0}, {"cycle": 5.0}])
def test_each_phase_moves_its_own_network_and_the_cycle_moves_the_generator(weights):
    objective = make_textgan(**weights)
    objective.make_optimizer = {k: lambda p: torch.optim.SGD(p, lr=0.1) for k in objective.make_optimizer}
    start = {key: value.clone() for key, value in objective.named_parameters()}
    gradients = {}

    def keep(batch, loss=objective.phases["generator"]):
        value, logs = loss(batch)
        parameters = list(objective.generator.parameters())
        gradients["generator"] = torch.autograd.grad(value, parameters, retain_graph=True)
        alone = objective.judged(objective.generated(batch, "generator"), batch)[0]
        gradients["gan"] = torch.autograd.grad(alone, parameters)
        assert not any(p.requires_grad for p in objective.captioner.parameters())
        return value, logs

    objective.phases["generator"] = keep
    run(objective, [random_batch(4)])
    moved = {key.partition(".")[0] for key, p in objective.named_parameters() if not torch.equal(p, start[key])}
    assert moved == {"generator", "discriminator", "captioner"}
    same = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients.values(), strict=True))
    assert same == (not weights["cycle"])


def test_dropped_captions_count_in_no_description():
    objective, batch = make_textgan(), captioned(random_batch(4).as_float())
    own, right = objective.told(batch.image, batch)
    kept = torch.tensor([True, False, True, False])
    some, _ = objective.told(batch.image, replace(batch, caption=batch.caption.masked_fill(~kept, DROPPED)))
    each = nats(objective, batch.image, batch)
    torch.testing.assert_close(own, each.mean())
    torch.testing.assert_close(some, each[kept].sum() / 4)
    assert 0 <= right <= 1


def test_weights_out_of_range_are_told():
    with pytest.raises(UserError, match=r"objective.cycle=-1, warmup_kimg=0.0, .*: expected all from 0"):
        make_textgan(cycle=-1)


@pytest.mark.slow
def test_it_learns_to_draw_what_its_captions_say_and_to_say_what_it_drew():
    """Scenes of two bands, whose greys are the two letters of a caption."""
    optimizer = partial(torch.optim.Adam, lr=3e-3, betas=(0.0, 0.99))
    objective = make_textgan(optimizer, matching=1.0, cycle=1.0, warmup_kimg=0.5)
    run(objective, [captioned_batch(9, 9 * i)[0] for i in range(400)])
    batch, captions = captioned_batch(9)
    image = batch.as_float().image
    with torch.no_grad():
        drawn = objective.eval().sample(torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), batch.condition)
    bands = [torch.stack([each[:, :, :8].mean((1, 2, 3)), each[:, :, 8:].mean((1, 2, 3))]) for each in (drawn, image)]
    assert (bands[0] - bands[1]).abs().max() < 0.31, "half of what two letters differ by"
    pixels = drawn.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    assert [each.text for each in captions_of(objective, Pieces(), pixels)] == captions
