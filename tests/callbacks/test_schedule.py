from types import SimpleNamespace

import pytest

from trainer.callbacks.schedule import due, last


@pytest.mark.parametrize(("times", "budget"), [(10, 1000), (3, 10), (7, 23), (10, 4), (1, 5)])
def test_evenly_over_the_budget_and_at_its_end(times, budget):
    steps = [s for s in range(1, budget + 1) if due(SimpleNamespace(global_step=s, max_steps=budget), times)]
    assert len(steps) == min(times, budget)
    assert steps[-1] == budget
    gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_never():
    assert not any(due(SimpleNamespace(global_step=s, max_steps=9), 0) for s in range(1, 10))
    assert not due(SimpleNamespace(global_step=5, max_steps=-1), 10)


def test_last():
    assert [last(SimpleNamespace(global_step=s, max_steps=3)) for s in (2, 3)] == [False, True]
