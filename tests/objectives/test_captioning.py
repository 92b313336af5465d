"""Captioning: the loss as it is written, and the pieces that are ever written."""

from types import SimpleNamespace

import pytest
import torch
from conftest_objectives import Pieces, captioned_batch, make_captioning

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
