"""Minibatch deviation, style mixing and path lengths: ranks do as one process does."""

import pytest
import torch
from matrix import STRATEGIES, difference, result, run

CASES = ["stylegan2/fp32/seed=2", "stylegan2+split/fp32/seed=2"]


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
        means = [result(tmp_path, case, 2, rank)["weights"].get("mean_path_length") for rank in (0, 1)]
        means = [mean for mean in means if mean is not None]
        for mean in means:
            torch.testing.assert_close(mean, alone[case]["weights"]["mean_path_length"], rtol=1e-5, atol=0)
        assert means and means[0] > 0
