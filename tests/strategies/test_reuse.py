"""Generated images that are kept from one phase to the next, where weights are gathered and freed in between."""

import pytest
from matrix import difference, result, run

CASE = "reuse/fp32/seed=2"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_two_ranks_equal_one_process(strategy, tmp_path):
    for name, ranks in (("single", 1), (strategy, 2)):
        (tmp_path / name).mkdir()
        run(name, ranks, tmp_path / name, [CASE])
    assert difference(result(tmp_path / "single", CASE, 1), result(tmp_path / strategy, CASE, 2)) < 1e-5
