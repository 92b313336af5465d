"""What is counted, on collectives of known size; PyTorch's fake process group pretends ranks."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.strategies.traffic import Traffic, sent

RANKS = 4


@pytest.fixture
def four_ranks():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_each_kind_counts_the_whole_tensor(four_ranks):
    part, whole = torch.zeros(10), torch.zeros(10 * RANKS)
    with Traffic() as traffic:
        dist.all_reduce(part)
        dist.all_gather_into_tensor(whole, part)
        dist.all_gather([torch.zeros(10) for _ in range(RANKS)], part)
        dist.reduce_scatter_tensor(part, whole)
        dist.broadcast(part, 0)
        dist.reduce(part, 0)
        dist.barrier()
    assert traffic.calls == {
        "all_reduce": 1, "all_gather": 2, "reduce_scatter": 1, "broadcast": 1, "reduce": 1, "barrier": 1
    }  # fmt: skip
    assert traffic.bytes == {
        "all_reduce": 40, "all_gather": 2 * 160, "reduce_scatter": 160, "broadcast": 40, "reduce": 40, "barrier": 0
    }  # fmt: skip
    dist.all_reduce(part)
    assert traffic.calls["all_reduce"] == 1, "counted outside"


def test_reducer_of_ddp_in_the_backward_pass(one_rank):
    network = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 10))
    engine = DistributedDataParallel(network)
    size = sum(p.nbytes for p in network.parameters())
    for _ in range(3):  # buckets are arranged anew after the first
        with Traffic() as traffic:
            engine.reducer._rebuild_buckets()
            engine.reducer.prepare_for_backward([])
            network(torch.ones(2, 100)).sum().backward()
    assert traffic.bytes == {"all_reduce": size}
    with Traffic() as traffic:
        network(torch.ones(2, 100)).sum().backward()  # not armed
    assert not traffic.calls


def test_on_a_ring():
    assert sent("all_reduce", 100, 4) == 150
    assert sent("all_gather", 100, 4) == sent("reduce_scatter", 100, 4) == 75
    assert sent("broadcast", 100, 4) == 100
    assert sent("all_reduce", 100, 1) == sent("broadcast", 100, 1) == 0
