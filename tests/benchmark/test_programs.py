"""Programs of a step against what each strategy hides, computed by hand."""

import pytest

from trainer.benchmark.cards import CARDS, Card
from trainer.benchmark.count import Network, Pass, Phase, Work
from trainer.benchmark.model import Collective, Interconnect
from trainer.benchmark.programs import bytes_sent, program, seconds
from trainer.benchmark.timeline import Cluster, simulate

MIB, RANKS = 2**20, 8
LINKS = Interconnect(intra_gib_s=10, inter_gib_s=10, latency_us=0, gpus_per_node=8)
SIZE = 76 * MIB  # DDP reduces 1 MiB, then three times 25
COMPUTE = {"network": (0.1, 0.2, 0.01)}


def work(gathered=(0.0, 0.0), gathers=(0.0, 0.0), units=1, accumulate=1):
    phase = Phase(gathered=list(gathered), gathers=list(gathers))
    network = Network(SIZE, [SIZE // 8] * 2, units, SIZE, moments=2, averaged=True)
    return Work({"network": phase}, {"network": network}, 0, 1.0, accumulate, half=True)


def step(strategy, work, ranks=RANKS, ahead=True, links=LINKS):
    return float(simulate(program(strategy, work, COMPUTE, links, ranks, ahead), Cluster(ranks), 1).step_s[0])


def takes(kind, size, links=LINKS):
    return links.seconds(Collective(kind, size), RANKS)


def test_one_rank_computes_and_waits_for_nobody():
    assert step("single", work(), ranks=1) == pytest.approx(0.31)


def test_ddp_shows_its_last_bucket():
    assert step("ddp", work()) == pytest.approx(0.31 + takes("all_reduce", 25 * MIB))


def test_ddp_over_a_slow_link_shows_all_but_the_first_quarter_of_the_backward():
    slow = Interconnect(0.1, 0.1, 0, 8)
    assert takes("all_reduce", MIB, slow) < 0.05  # the first is done before the second is there
    assert step("ddp", work(), links=slow) == pytest.approx(0.1 + 0.1 + 3 * takes("all_reduce", 25 * MIB, slow) + 0.01)


def test_zero1_hides_nothing_and_zero2_all_but_the_last_bucket():
    """Here a bucket is half of the network: its largest weight. Both gather the weights when they have stepped."""
    bucket, gather = takes("all_reduce", SIZE / 2), takes("all_gather", SIZE)
    assert step("zero1", work()) == pytest.approx(0.31 + 2 * bucket + gather)
    assert step("zero2", work()) == pytest.approx(0.31 + bucket + gather)


def test_zero3_gathers_once_and_scatters_what_the_backward_has_left():
    gather, scatter = takes("all_gather", SIZE), takes("reduce_scatter", SIZE / 2)
    assert step("zero3", work()) == pytest.approx(0.31 + gather + scatter)


@pytest.mark.parametrize("ahead", [True, False])
def test_fsdp_gathers_one_unit_ahead_on_a_gpu(ahead):
    """Four units, forward and backward; on a GPU the first of each pass is seen, on a CPU every one."""
    unit = takes("all_gather", SIZE / 4)
    last = takes("reduce_scatter", SIZE / 4)
    seen = 1 if ahead else 4
    found = step("fsdp", work((SIZE, SIZE), (4, 4), units=4), ahead=ahead)
    if ahead:
        assert found == pytest.approx(0.31 + 2 * seen * unit + last)
    else:  # a gather waits for the scatter before it, too
        assert found == pytest.approx(0.31 + 2 * seen * unit + 4 * last)


@pytest.mark.parametrize(("strategy", "factor"), [("ddp", 2), ("zero1", 3), ("zero2", 3), ("zero3", 2), ("fsdp", 3)])
def test_bytes_sent(strategy, factor):
    found = bytes_sent(strategy, work((SIZE, SIZE), (4, 4), units=4), RANKS)
    assert found == pytest.approx(factor * SIZE * (RANKS - 1) / RANKS)


def test_micro_batches_reduce_once_under_ddp_and_each_time_under_fsdp():
    once, twice = (bytes_sent("ddp", work(accumulate=n), RANKS) for n in (1, 2))
    assert once == twice
    once, twice = (bytes_sent("fsdp", work((SIZE, SIZE), (4, 4), 4, accumulate=n), RANKS) for n in (1, 2))
    assert twice == pytest.approx(2 * once)


def test_an_operator_takes_its_flops_or_its_bytes():
    card = Card(100, 50, 10, 80, 1000, 1, 1, of_peak=0.5, of_memory=0.5, launch_us=1e-6)
    product, copy, single = (1e9, 1e3, True), (0.0, 1e6, True), (1e9, 1e3, False)
    passes = [Pass(0.5, *map(list, zip(product, copy, single, strict=True)))]
    expected = 1e9 / 50e12 + 1e6 / 500e9 + 1e9 / 25e12
    assert seconds(passes, card, images=4, accumulate=1) == pytest.approx(0.5 * 4 * expected)


def test_small_operators_take_as_long_as_the_host():
    passes = [Pass(1.0, [0.0] * 100, [1.0] * 100, [True] * 100)]
    assert seconds(passes, CARDS["H100"], 4, accumulate=2) == pytest.approx(2 * 100 * 6e-6)


def test_ranks_share_cores_with_whatever_else_runs():
    alone = Card(1, 1, 1, 1, 1, 1, 1, carries=2)
    busy = Card(1, 1, 1, 1, 1, 1, 1, carries=2, busy=5)
    assert [alone.crowd(ranks) for ranks in (1, 2, 4)] == [1, 1, 2]
    assert busy.crowd(4) == pytest.approx(9 / 6)
    assert CARDS["H100"].crowd(1024) == 1
