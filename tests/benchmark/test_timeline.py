"""The simulation of ranks against closed forms: rings, overlap, stragglers, loaders."""

import numpy as np
import pytest

from trainer.benchmark.model import Collective, Interconnect
from trainer.benchmark.timeline import Cluster, Compute, Jitter, Send, Wait, simulate

LINKS = Interconnect(intra_gib_s=10, inter_gib_s=10, latency_us=20, gpus_per_node=64)


def ring(arrival, count, seconds_a_byte, latency):
    """When each rank has the sum of all, message by message: 2 (W-1) rounds in each of which a rank sends a chunk."""
    ranks = len(arrival)
    clock = np.array(arrival, float)
    for _ in range(2 * (ranks - 1)):  # what a rank receives its left neighbour has sent, when both were ready
        clock = np.maximum(clock, np.roll(clock, 1)) + latency + count / ranks * seconds_a_byte
    return clock


@pytest.mark.parametrize("ranks", [2, 4, 16, 64])
def test_a_ring_of_messages_takes_what_the_formula_says(ranks):
    count = 50 * 2**20
    messages = ring(np.zeros(ranks), count, 1 / (10 * 2**30), 20e-6)
    assert messages == pytest.approx(LINKS.seconds(Collective("all_reduce", count), ranks))


@pytest.mark.parametrize("late", [0, 3])
def test_a_collective_waits_for_the_last_rank(late):
    """As the messages do: with one rank late by more than a ring takes, the others have nothing that helps it."""
    arrival = np.zeros(8)
    arrival[late] = 1.0
    count = 2**24
    messages = ring(arrival, count, 1 / (10 * 2**30), 20e-6).max()
    takes = LINKS.seconds(Collective("all_reduce", count), 8)
    done = simulate([Compute(arrival), Send(takes), Wait(0)], Cluster(8), 1)
    assert done.step_s[0] == pytest.approx(messages, rel=0.01)
    assert done.step_s[0] == pytest.approx(1 + takes)


@pytest.mark.parametrize(("bucket", "expected"), [(0.01, 1.0 + 0.01), (0.25, 1.0 + 0.25), (0.5, 0.25 + 4 * 0.5)])
def test_buckets_hide_behind_the_rest_of_the_backward(bucket, expected):
    """Four buckets over a backward of 1 s: the last is always seen, and all of them where the link is the slower."""
    program = [each for _ in range(4) for each in (Compute(0.25, "backward"), Send(bucket))]
    done = simulate([*program, *map(Wait, range(4))], Cluster(4), 3)
    assert done.step_s == pytest.approx(expected)
    assert done.waited == pytest.approx(1 - 1 / expected)


def expected_maximum(ranks):
    """Of so many standard normals: the integral of x d(Phi^N)."""
    x = np.linspace(-8, 8, 20001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(density) * (x[1] - x[0])
    return float((x * np.gradient(below**ranks, x)).sum() * (x[1] - x[0]))


@pytest.mark.parametrize("ranks", [2, 64, 1024])
def test_stragglers_by_chance_cost_the_expected_maximum_of_normals(ranks):
    program = [Compute(2.0, "all"), Send(0.0), Wait(0)]
    done = simulate(program, Cluster(ranks, Jitter(spread=0.05)), 2000)
    assert done.step_s.mean() == pytest.approx(2 * (1 + 0.05 * expected_maximum(ranks)), rel=0.003)


def test_the_integral_is_right():
    assert expected_maximum(1) == pytest.approx(0, abs=1e-3)
    assert expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-3)


def test_pieces_of_a_pass_share_its_chance():
    """In however many pieces a pass is computed, one rank is as late."""
    whole = [Compute(1.0, "backward"), Send(0.0), Wait(0)]
    pieces = [*[Compute(0.1, "backward")] * 10, Send(0.0), Wait(0)]
    cluster = Cluster(16, Jitter(spread=0.1))
    assert simulate(pieces, cluster, 50).step_s == pytest.approx(simulate(whole, cluster, 50).step_s)


def test_slow_ranks_are_waited_for():
    done = simulate([Compute(1.0), Send(0.1), Wait(0)], Cluster(10, Jitter(stragglers=0.1, slower=0.5)), 5)
    assert done.step_s == pytest.approx(1.6)
    assert done.waited == pytest.approx(1 - (9 * 1.0 + 1.5) / 10 / 1.6)


@pytest.mark.parametrize(("load", "expected"), [(0.5, 1.0), (3.0, 3.0)])
def test_a_loader_that_is_slower_sets_the_pace(load, expected):
    done = simulate([Compute(1.0)], Cluster(2, load_s=load, ahead=2), 20)
    assert done.step_s[10:] == pytest.approx(expected)


def test_a_seed_is_one_simulation():
    program, ranks = [Compute(1.0, "all"), Send(0.1), Wait(0)], 8
    first, again, other = (
        simulate(program, Cluster(ranks, Jitter(0.1), seed=seed), 10).step_s for seed in (1, 1, 2)
    )  # fmt: skip
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
