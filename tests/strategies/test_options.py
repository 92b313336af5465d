"""What a strategy may be told beside: several ranks equal one process within what each option is allowed."""

from contextlib import nullcontext

import pytest
import torch
from matrix import OPTIONS, Alone, distances, result, run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return Alone(tmp_path_factory.mktemp("single"))


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("strategy", OPTIONS, ids=lambda each: each[0].replace('"', ""))
def test_ranks_equal_one_process(strategy, alone, tmp_path):
    found = distances(strategy, tmp_path, alone)
    assert max(found.values()) <= OPTIONS[strategy], found
    if "bfloat16" in strategy[0]:
        assert min(found.values()) > 1e-5, f"nothing was rounded: {found}"


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_what_asks_for_whole_weights_has_those_of_float32(strategy, tmp_path):
    """The images of the average are those that one process draws with the checkpoint."""
    case, further = "hinge/fp32/seed=2/save=half.ckpt", "hinge/fp32/seed=2/from=half.ckpt"
    run(f'{strategy},gather_dtype="bfloat16"', 2, tmp_path, [case])
    run("single", 1, tmp_path, [further])
    assert torch.equal(result(tmp_path, case, 2)["images"], result(tmp_path, further, 1)["images"])


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_exact_penalties_see_float32(strategy, tmp_path):
    case = "rpgan/fp32/seed=2"
    run(f'{strategy},gather_dtype="bfloat16"', 2, tmp_path, [case])
    assert {*result(tmp_path, case, 2)["seen"]["rounded"]} == {False}


@pytest.mark.slow
@pytest.mark.sampled(3)
def test_ranks_of_a_replica_split_and_replicas_repeat(tmp_path):
    """Of four ranks in two replicas, the first and the third hold the same half, and so do the other two."""
    case = "hinge/fp32/seed=2"
    run("fsdp,replicas=2", 4, tmp_path, [case])
    held = [result(tmp_path, case, 4, rank)["held"] for rank in range(4)]
    for key, part in held[0].items():
        assert part.equal(held[2][key])
        assert held[1][key].equal(held[3][key])
        assert part.numel() + held[1][key].numel() == result(tmp_path, case, 4)["weights"][key].numel()


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_a_step_gathers_half_the_bytes(strategy, tmp_path):
    case, counted = "hinge/fp32/seed=2/traffic=4", {}
    for given in ("float32", "bfloat16"):
        (tmp_path / given).mkdir()
        run(f'{strategy},gather_dtype="{given}"', 2, tmp_path / given, [case])
        counted[given] = result(tmp_path / given, case, 2)["seen"]["gathered"]
    assert counted["bfloat16"] * 2 == counted["float32"] > 0


def test_half_the_bytes_of_weights():
    from trainer.strategies.fsdp import Rounded
    from trainer.strategies.traffic import Traffic

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        weights, gather, sent = torch.randn(100), Rounded(), []
        for whole in (False, True):
            found = torch.empty(100)
            with gather.whole() if whole else nullcontext(), Traffic() as traffic:
                gather(found, weights, torch.distributed.group.WORLD)
            assert found.equal(weights if whole else weights.bfloat16().float())
            sent.append(traffic.bytes["all_gather"])
        assert sent == [200, 400]
    finally:
        torch.distributed.destroy_process_group()
