"""Batches are prepared on the host, and the next one is on its way to a GPU while this one is worked on."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import pytest
import torch
from conftest_objectives import make_gan, paired_batch, random_batch, run
from torch.utils.data import DataLoader

from trainer.strategies.ahead import Ahead, tensors


class Stream:
    """In place of a GPU's: tells when a batch is sent, and who waits for what."""

    def __init__(self, told):
        self.told, self.events = told, 0

    def record_event(self):
        self.events += 1
        self.told.append(f"sent {self.events}")
        return self.events

    def wait_event(self, event):
        self.told.append(f"waited {event}")


@pytest.fixture
def told(monkeypatch):
    """What happens on a device of two streams, that of the copies and that of the kernels."""
    told = []
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(told))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: told.append("kept"))
    return told


def ahead(batches, told=None, prepared=lambda batch: batch):
    found = Ahead(DataLoader(batches, batch_size=None), torch.device("meta"), prepared)
    found.stream = None if told is None else Stream(told)
    return found


def test_kernels_wait_for_the_batch_that_they_read_and_for_no_later_one(told):
    loader = ahead([random_batch(2, start) for start in (0, 2, 4)], told)
    batches = iter(loader)
    first, second = islice(batches, 2)  # as Lightning, which fetches one more before it begins
    assert first.image.device.type == second.condition.tokens.device.type == "meta"
    assert told == ["sent 1", "sent 2"]
    loader.arrive(first)
    assert told[2:] == ["waited 1", *["kept"] * 6]
    next(batches)
    loader.arrive(second)
    assert told[9:] == ["sent 3", "waited 2", *["kept"] * 6]


def test_a_loader_that_begins_anew_has_forgotten_what_was_under_way(told):
    loader = ahead([random_batch(2, start) for start in (0, 2)], told)
    next(iter(loader))
    again = iter(loader)
    loader.arrive(next(again))
    assert not loader.sent


def test_all_of_a_batch_is_known():
    batch = paired_batch(2)
    assert len(tensors(batch)) == 12
    whole = replace(batch, encoded=torch.zeros(2, 4, 4), condition=batch.condition._replace(source=torch.zeros(2, 3)))
    assert len(tensors(whole)) == 14


def test_on_a_cpu_a_batch_is_prepared_and_stays():
    loader = ahead([random_batch(2)] * 3, prepared=lambda batch: replace(batch, caption=batch.caption + 7))
    assert [batch.caption.tolist() for batch in loader] == [[7, 8]] * 3
    assert len(loader) == 3
    assert loader.num_workers == 0


def test_a_training_sees_what_the_objective_prepares():
    gan, seen = make_gan(), []
    gan.on_host = lambda batch: replace(batch, caption=batch.caption + 100)
    gan.on_train_batch_start = lambda batch, index: seen.extend(batch.caption.tolist())
    run(gan, [random_batch(2, start) for start in (0, 2)])
    assert seen == [100, 101, 102, 103]
