"""StyleGAN2, AttnGAN and growing GANs: ranks do as one process, in groups, path lengths, stages and fades."""

import pytest
import torch
from matrix import STRATEGIES, difference, result, run

CASES = [f"{name}/fp32/seed=2" for name in ("stylegan2", "stylegan2+split", "attngan", "progressive")]


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
        if "stylegan2" in case:
            means = [each["weights"]["mean_path_length"] for each in (alone[case], result(tmp_path, case, 2))]
            torch.testing.assert_close(*means, rtol=1e-5, atol=0)
            assert means[0] > 0
