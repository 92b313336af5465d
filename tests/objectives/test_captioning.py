"""Captioning: the loss as it is written, and the pieces that are ever written."""

from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import Pieces, captioned_batch, make_captioning, make_captioning_vae

from trainer.errors import UserError
from trainer.objectives.captioning import Captioning


def test_the_loss_is_the_mean_of_the_nats_of_a_captions_pieces():
    objective, (batch, _) = make_captioning(), captioned_batch()
    batch = batch.as_float()
    loss, logs = objective.captioner_loss(batch)
    logs_of = objective.captioner(batch.image, batch.condition.tokens).log_softmax(-1)
    each = []
    for row, ids, mask in zip(logs_of, batch.condition.tokens, batch.condition.mask, strict=True):
        count = int(mask.sum())
        each.append(-sum(row[place, ids[place]] for place in range(count)) / count)  # ids 0 to 9 are all written
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert 0 <= logs["captioner/right"] <= 1


def test_only_pieces_of_training_captions_are_written():
    objective = Captioning(make_captioning().captioner, optimizer={}, schedule=lambda _: 1.0, seed=0)
    cache = SimpleNamespace(captions=["ab", "ad"])
    objective._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(text=Pieces(), train=SimpleNamespace(cache=cache)), strategy=None
    )
    Captioning.on_fit_start(objective)
    assert objective.captioner.written.tolist() == [0, 1, 2, 4]
    objective.images_seen = 8  # a resumed run has them in its checkpoint
    cache.captions = ["c"]
    Captioning.on_fit_start(objective)
    assert objective.captioner.written.tolist() == [0, 1, 2, 4]
    for text, message in (
        (SimpleNamespace(), "a captioner writes pieces of words: say text=pieces"),
        (SimpleNamespace(end=0, vocabulary=3), "set text.network.vocabulary=3"),
    ):
        objective._trainer.datamodule.text = text
        with pytest.raises(UserError, match=message):
            Captioning.on_fit_start(objective)


def test_smoothing_out_of_range_is_told():
    with pytest.raises(UserError, match=r"objective.smoothing=1: expected a share"):
        make_captioning(smoothing=1)


@pytest.mark.parametrize(("free_nats", "images_seen"), [(0.0, 8000), (0.0, 2000), (3.0, 8000), (3.0, 2000)])
def test_the_loss_of_a_latent_is_the_negative_elbo_with_free_nats(free_nats, images_seen):
    objective, (batch, _) = make_captioning_vae(free_nats=free_nats, warmup_kimg=4.0), captioned_batch()
    objective.images_seen = images_seen
    captioner = objective.captioner
    with torch.no_grad():
        captioner.gaussian.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
        captioner.gaussian.weight.mul_(20)  # captions differ in what they cost
    batch = batch.as_float()
    ids, mask = batch.condition.tokens, batch.condition.mask
    loss, logs = objective.captioner_loss(batch)
    seen = captioner.seen(batch.image)
    mean, log_variance = captioner.posterior(seen, ids, mask)
    latent = mean + objective.normal("captioner", batch, 3) * (log_variance / 2).exp()
    expected, rates = [], []
    for row in range(8):
        past = captioner.past(captioner.with_latent(seen[row : row + 1], latent[row : row + 1]))
        logs_of = captioner.predicted(ids[row : row + 1], past).log_softmax(-1)[0]
        count = int(mask[row].sum())
        nats = -sum(logs_of[place, ids[row, place]] for place in range(count))
        q = torch.distributions.Normal(mean[row], (log_variance[row] / 2).exp())
        rates.append(torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum())
        weight = min(1, images_seen / 4000)
        expected.append((nats + weight * max(rates[-1], torch.tensor(free_nats))) / count)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    torch.testing.assert_close(logs["captioner/rate"], torch.stack(rates).mean())
    if free_nats:
        assert min(rates) < free_nats < max(rates), "the bound is of each caption"


def test_mistakes_of_a_latent_are_told():
    with pytest.raises(UserError, match=r"objective.free_nats=-1, warmup_kimg=0.0: expected both from 0"):
        make_captioning_vae(free_nats=-1)
