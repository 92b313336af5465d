"""Times by hand-made clocks: what is a percentile, a ratio and a turn."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
import torch

from trainer.batch import Condition
from trainer.compression.comparison.latency import LATENCY_CALLS, Speed, latencies, measure
from trainer.compression.search.measurement import of_speed


class Machine:
    """A clock that stands still but for the calls of its networks; `drift` makes each turn slower than the last."""

    def __init__(self):
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def network(self, name, seconds):
        def draw(latent, condition):
            assert torch.is_inference_mode_enabled()
            self.calls.append((name, len(latent)))
            self.now += seconds(len(latent)) if callable(seconds) else seconds
            return latent

        return draw


def inputs(size):
    return torch.zeros(size, 2), Condition(torch.zeros(size, 3, 2), torch.ones(size, 3).bool(), torch.zeros(size, 2))


def measured(machine, networks, **options):
    return measure(networks, inputs, clock=machine.clock, **options)


def test_percentiles_are_those_of_numpy():
    rounds = [list(np.random.default_rng(i).gamma(2.0, 0.01, 31)) for i in range(3)]
    found, medians = latencies(rounds)
    for p in (50, 95, 99):
        assert found[f"p{p}"] == pytest.approx(1000 * np.percentile(np.concatenate(rounds), p))
    assert medians == pytest.approx([1000 * np.median(each) for each in rounds])


def test_images_per_second_and_the_best_batch():
    machine = Machine()
    speed = measured(machine, {"a": machine.network("a", lambda n: 0.010 + 0.001 * n)}, batch_sizes=(1, 4, 16))["a"]
    assert speed.latency_ms == pytest.approx({"p50": 11.0, "p95": 11.0, "p99": 11.0})
    assert speed.images_per_second == pytest.approx({1: 1 / 0.011, 4: 4 / 0.014, 16: 16 / 0.026})
    assert speed.best_batch == 16
    assert speed.best == pytest.approx(16 / 0.026)


def test_fewest_calls_at_batch_1_even_where_a_turn_is_short():
    machine = Machine()
    measured(machine, {"slow": machine.network("slow", 1.0)}, batch_sizes=(1,), rounds=4, seconds=0.5)
    assert len(machine.calls) >= LATENCY_CALLS


def test_networks_take_turns_and_each_begins_a_round():
    machine = Machine()
    networks = {name: machine.network(name, 1.0) for name in "abc"}
    measured(machine, networks, batch_sizes=(1, 4), rounds=3, seconds=0.5)
    warm_up = 3 * 2 * 3  # calls, sizes, networks
    turns = [call for i, call in enumerate(machine.calls[warm_up:], warm_up) if call != machine.calls[i - 1]]
    assert turns == [(name, size) for order in ("abc", "bca", "cab") for size in (1, 4) for name in order]


def test_ratios_are_of_the_same_round_while_the_machine_drifts():
    """3, 2 and 1 times as fast in the rounds; medians of the rounds, 40 and 30, would say another ratio."""
    fast = Speed({}, [10.0, 30.0, 40.0], {4: [90.0, 20.0, 40.0]})
    slow = Speed({}, [30.0, 60.0, 40.0], {1: [30.0, 10.0, 40.0]})
    assert (fast.best, slow.best) == (40.0, 30.0)
    assert fast.versus(slow) == fast.latency_versus(slow) == 2.0


def test_rounds_that_differ_are_told_by_their_quartiles():
    def speed(*rates):
        return Speed({"p50": 1.0}, [1.0] * len(rates), {4: [*rates]})

    first, even, uneven = speed(*[100.0] * 5), speed(200, 205, 210, 200, 205), speed(150, 200, 210, 300, 205)
    assert uneven.quartiles_versus(first) == (2.0, 2.1)
    assert of_speed(even, [first]) == []
    assert of_speed(first, []) == []
    assert of_speed(speed(150, 180, 200, 240, 300), [first]) == [
        "rounds differ, its speed-up has quartiles 1.80 and 2.40: was the machine idle?"
    ]
    assert of_speed(even, [first, even]) == ["no faster on this device than the stage before"]


def test_sizes_that_do_not_pay_are_not_tried_further(capsys):
    machine = Machine()
    networks = {
        "baseline": machine.network("baseline", lambda n: 0.01 * n if n < 16 else 0.03 * n),
        "thrashes": machine.network("thrashes", lambda n: 0.01 * n if n < 16 else 0.03 * n),
        "grows": machine.network("grows", lambda n: 0.01),
    }
    speeds = measured(machine, networks, batch_sizes=(1, 4, 16, 64), rounds=2, seconds=0.01)
    assert list(speeds["thrashes"].images_per_second) == [1, 4]
    assert list(speeds["grows"].images_per_second) == [1, 4, 16, 64]
    assert list(speeds["baseline"].images_per_second) == [1, 4, 16, 64], "what others stand beside is measured whole"
    assert ("thrashes", 64) not in machine.calls
    assert "thrashes: an image takes 3.0 times as long in batches of 16" in capsys.readouterr().err


def test_a_moment_of_a_busy_machine_drops_no_size(capsys):
    """The first calls of a size take five times as long, of all networks alike."""
    machine = Machine()

    def noisy(size):
        early = sum(each == size for _, each in machine.calls) <= 2 * 3
        return 0.01 * size * (5 if size == 16 and early else 1)

    networks = {name: machine.network(name, noisy) for name in "ab"}
    speeds = measured(machine, networks, batch_sizes=(1, 4, 16), rounds=2, seconds=0.01)
    assert [list(speed.images_per_second) for speed in speeds.values()] == [[1, 4, 16]] * 2
    assert "left out" not in capsys.readouterr().err


def test_out_of_memory_ends_the_sizes_and_other_errors_are_told():
    machine = Machine()

    def hungry(latent, condition):
        if len(latent) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        machine.now += 0.01

    assert list(measured(machine, {"a": hungry}, seconds=0.01)["a"].images_per_second) == [1, 4]

    def broken(latent, condition):
        machine.now += 0.01
        if len(latent) > 4:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measured(machine, {"a": broken}, seconds=0.01)


def test_a_real_clock_and_the_line_for_those_who_wait(monkeypatch, capsys):
    monkeypatch.setattr("trainer.process.progress.EVERY_SECONDS", 0.0)
    layer = torch.nn.Linear(2, 64)
    speed = measure({"a": lambda latent, _: layer(latent)}, inputs, batch_sizes=(1, 8), rounds=2, seconds=0.01)["a"]
    assert 0 < speed.latency_ms["p50"] <= speed.latency_ms["p95"] <= speed.latency_ms["p99"]
    assert speed.best == max(median(each) for each in speed.throughput_rounds.values())
    assert "timed 4 of 4 turns" in capsys.readouterr().err
