"""Families of models beside those of the matrix: two ranks equal one process under every strategy."""

import pytest
from matrix import STRATEGIES, difference, result, run

CASES = [
    *("projected/fp32/seed=2", "regularized/fp32/seed=2"),
    *("minimax/fp32/seed=2/posthoc=2", "gsn/fp32/seed=2"),
    *("multilevel/fp32/seed=3", "multilevel+split/fp32/seed=2"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    run("single", 1, folder, CASES)
    return {case: result(folder, case, 1) for case in CASES}


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_equal_one_process(strategy, alone, tmp_path):
    run(strategy, 2, tmp_path, CASES)
    for case in CASES:
        assert difference(alone[case], result(tmp_path, case, 2)) <= 1e-5, case
