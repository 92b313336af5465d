"""Failures and checkpoints against Young's and Daly's formulas."""

import numpy as np
import pytest

from trainer.benchmark.faults import best_interval, daly, lived, young

HOUR = 3600.0
WORK, WRITE, RESTART, MTBF = 200 * HOUR, 60.0, 300.0, 8 * HOUR


@pytest.mark.parametrize("interval", [300.0, 1000.0, 4000.0, 15000.0])
def test_runs_end_when_daly_expects(interval):
    """Exponential failures, each losing what was done since the last save: the mean of many runs, within 2%."""
    ends = lived(WORK, interval, WRITE, RESTART, MTBF, runs=300)
    spread = ends.std() / np.sqrt(len(ends))
    assert ends.mean() == pytest.approx(daly(WORK, interval, WRITE, RESTART, MTBF), rel=0.02, abs=3 * spread)


def test_a_failure_while_it_writes_costs_the_work_too():
    """Where most of the time is writing, what of it does not count is seen at once."""
    work, interval, write, mtbf = 20 * HOUR, 300.0, 1200.0, 1800.0
    ends = lived(work, interval, write, RESTART, mtbf, runs=200)
    assert ends.mean() == pytest.approx(daly(work, interval, write, RESTART, mtbf), rel=0.03)


def test_without_failures_only_the_writes_are_added():
    assert lived(1000.0, 100.0, 5.0, 60.0, 1e15, runs=2) == pytest.approx(1000 + 10 * 5)


@pytest.mark.parametrize("mtbf", [2 * HOUR, 8 * HOUR, 50 * HOUR])
def test_the_best_simulated_interval_is_youngs(mtbf):
    """The optimum is flat: what is found is near, and costs what Young's costs to within 2%."""
    interval, seconds = best_interval(WORK, WRITE, RESTART, mtbf)
    guess = young(WRITE, mtbf)
    assert guess == pytest.approx(np.sqrt(2 * WRITE * mtbf))
    assert 0.5 <= interval / guess <= 2
    assert seconds == pytest.approx(daly(WORK, guess, WRITE, RESTART, mtbf), rel=0.02)


def test_a_short_run_is_saved_once():
    interval, seconds = best_interval(100.0, 1.0, 60.0, 1e9)
    assert interval == 100.0
    assert seconds == pytest.approx(101.0)


def test_a_rest_too_small_to_matter_ends_too():
    """0.3 is no whole number of 0.1 in floating point."""
    assert lived(0.3, 0.1, 1e6, 60.0, 1e15, runs=1) == pytest.approx(3e6, rel=0.5)


def test_a_seed_is_one_life():
    first, again, other = (lived(WORK, 2000.0, WRITE, RESTART, MTBF, runs=3, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
