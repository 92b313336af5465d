"""Ranks communicate while they compute, as the traces of docs/strategies.md show."""

import pytest
from overlap import STRATEGIES, measure


@pytest.mark.slow
@pytest.mark.sampled(6)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_ready_is_sent_behind_the_backward_pass(strategy, tmp_path):
    shares = measure(strategy, tmp_path)
    if strategy == "zero1":
        assert not shares  # it reduces when all gradients are there
    else:
        assert len(shares) > 1
        assert shares[0] < 0.75  # nothing hangs on how fast the machine is: these are shares of the pass's own time
