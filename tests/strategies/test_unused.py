"""Weights that a loss does not use: never, in some steps, or on one rank alone."""

import pytest
from matrix import difference, result, run

SOME, ONE_RANK = "spare/fp32/seed=2", "uneven/fp32/seed=2"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    run("single", 1, folder, [SOME, ONE_RANK])
    return folder


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("strategy", "cases"),
    [("ddp", [SOME, ONE_RANK]), *((name, [SOME]) for name in ("fsdp", "zero1", "zero2", "zero3"))],
)
def test_they_have_a_gradient_of_zero(alone, strategy, cases, tmp_path):
    run(strategy, 2, tmp_path, cases)
    for case in cases:
        means = [value for key, value in result(tmp_path, case, 2)["weights"].items() if key.endswith("statistic.mean")]
        assert len(means) == 2 and all(means), "running statistics are saved, too"
        assert difference(result(alone, case, 1), result(tmp_path, case, 2)) < 1e-5
