"""What a strategy may be told beside: several ranks equal one process within what each option is allowed."""

import pytest
from matrix import HALF, OPTIONS, SEED, difference, result, run

CASES = [f"{name}/fp32/seed={SEED['fp32']}" for name in ("hinge", "rpgan", "cvae")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    run("single", 1, folder, CASES)
    return folder


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("strategy", OPTIONS, ids=lambda each: each[0].replace('"', ""))
def test_ranks_equal_one_process(strategy, alone, tmp_path):
    name, ranks = strategy
    run(name, ranks, tmp_path, CASES)
    found = {case: difference(result(alone, case, 1), result(tmp_path, case, ranks)) for case in CASES}
    assert max(found.values()) <= OPTIONS[strategy], found
    if HALF in name:
        assert min(found.values()) > 1e-5, f"nothing was rounded: {found}"


@pytest.mark.slow
@pytest.mark.sampled(3)
def test_ranks_of_a_replica_split_and_replicas_repeat(tmp_path):
    """Of four ranks in two replicas, the first and the third hold the same half, and so do the other two."""
    run("fsdp,replicas=2", 4, tmp_path, CASES[:1])
    held = [result(tmp_path, CASES[0], 4, rank)["held"] for rank in range(4)]
    for key, part in held[0].items():
        assert part.equal(held[2][key])
        assert held[1][key].equal(held[3][key])
        assert part.numel() + held[1][key].numel() == result(tmp_path, CASES[0], 4)["weights"][key].numel()
