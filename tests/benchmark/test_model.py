"""The cost model against closed forms."""

import pytest

from trainer.benchmark.model import Collective, Interconnect, Network, fitted, step, volumes
from trainer.strategies.traffic import sent

GIB = 2**30
NODE = Interconnect(intra_gib_s=100, inter_gib_s=10, latency_us=3, gpus_per_node=8)
G, D = Network(40 * 2**20, 10), Network(60 * 2**20, 20)


def wire(strategy, stepping, others, ranks):
    return sum(sent(c.kind, c.bytes, ranks) for c in volumes(strategy, stepping, others))


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_in_a_node_it_is_the_ring(ranks):
    seconds = NODE.seconds(Collective("all_reduce", 5 * GIB, calls=7), ranks)
    assert seconds == pytest.approx(7 * 2 * (ranks - 1) * 3e-6 + 2 * (ranks - 1) / ranks * 5 / 100)
    seconds = NODE.seconds(Collective("all_gather", 5 * GIB), ranks)
    assert seconds == pytest.approx((ranks - 1) * 3e-6 + (ranks - 1) / ranks * 5 / 100)


def test_one_rank_sends_nothing():
    assert NODE.seconds(Collective("all_reduce", GIB), 1) == 0
    assert sent("all_reduce", GIB, 1) == sent("broadcast", GIB, 1) == 0


def test_across_nodes_each_gpu_carries_its_share_of_the_slow_link():
    seconds = NODE.seconds(Collective("reduce_scatter", 8 * GIB), 64)  # 8 nodes of 8
    assert seconds == pytest.approx((7 + 3) * 3e-6 + 7 / 8 * 8 / 100 + 7 / 8 * 1 / 10)


def test_equal_links_make_nodes_vanish_from_the_bandwidth_term():
    flat = Interconnect(10, 10, 0, 8).seconds(Collective("all_gather", GIB), 32)
    assert flat == pytest.approx(31 / 32 / 10)


@pytest.mark.parametrize(("strategy", "factor"), [("ddp", 2), ("zero1", 2), ("zero2", 2), ("zero3", 3), ("fsdp", 3)])
def test_volumes_are_those_of_the_zero_paper(strategy, factor):
    assert wire(strategy, G, [], 1000) == pytest.approx(factor * G.bytes * 999 / 1000)


def test_sharded_weights_of_the_frozen_player_travel_too():
    assert wire("zero3", G, [D], 2) == pytest.approx((3 * G.bytes + 2 * D.bytes) / 2)
    assert wire("ddp", G, [D], 2) == pytest.approx(G.bytes)
    assert sum(c.calls for c in volumes("fsdp", G, [D])) == 2 * (10 + 20) + 10


def test_overlap_hides_what_fits_behind_the_backward_pass():
    gradients = [Collective("all_reduce", 10 * GIB, 0)]  # 0.1 s on 2 ranks
    for compute, exposed in ((0.3, 0.0), (0.06, 0.06), (0.0, 0.1)):
        cost = step("ddp", [compute], [gradients], NODE, 2)
        assert cost.communication == pytest.approx(0.1)
        assert cost.exposed == pytest.approx(exposed)
        assert cost.apart == pytest.approx(compute + 0.1)
        assert cost.overlapped == pytest.approx(compute + exposed)


def test_gathering_after_the_step_is_not_hidden_by_zero1_but_by_zero3():
    phase = [Collective("all_gather", 20 * GIB, 0), Collective("reduce_scatter", 20 * GIB, 0)]  # 0.1 s each
    assert step("zero1", [3.0], [phase], NODE, 2).exposed == pytest.approx(0.1)
    assert step("zero3", [3.0], [phase], NODE, 2).exposed == 0
    assert step("zero3", [0.15], [phase], NODE, 2).exposed == pytest.approx(0.05)


def test_phases_do_not_hide_each_other():
    phase = [Collective("all_reduce", 10 * GIB, 0)]
    assert step("ddp", [10.0, 0.0], [phase, phase], NODE, 2).exposed == pytest.approx(0.1)


@pytest.mark.parametrize("ranks", [2, 4])
def test_links_are_found_again_from_what_they_take(ranks):
    true = Interconnect(2.5, 2.5, 40, ranks)
    sizes = [2**p for p in range(10, 26, 3)]
    sweep = [{"bytes": n, "seconds": true.seconds(Collective("all_reduce", n), ranks)} for n in sizes]
    found = fitted(sweep, ranks)
    assert found.intra_gib_s == pytest.approx(2.5)
    assert found.latency_us == pytest.approx(40)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match="single"):
        volumes("single", G)
