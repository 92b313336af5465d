"""Generated images that are kept from one phase to the next, where weights are gathered and freed in between."""

import pytest
from matrix import differences

CASE = "reuse/fp32/seed={seed}"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_two_ranks_equal_one_process(strategy, tmp_path):
    found = differences(strategy, CASE, tmp_path)
    assert found[-1] <= 1e-5, found
