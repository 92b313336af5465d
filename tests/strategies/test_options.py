"""What a strategy may be told beside: several ranks equal one process within what each option is allowed."""

import pytest
from matrix import HALF, OPTIONS, Alone, distances, result, run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return Alone(tmp_path_factory.mktemp("single"))


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.parametrize("strategy", OPTIONS, ids=lambda each: each[0].replace('"', ""))
def test_ranks_equal_one_process(strategy, alone, tmp_path):
    found = distances(strategy, tmp_path, alone)
    assert max(found.values()) <= OPTIONS[strategy], found
    if HALF in strategy[0]:
        assert min(found.values()) > 1e-5, f"nothing was rounded: {found}"


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
