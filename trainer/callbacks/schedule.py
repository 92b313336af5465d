"""When things happen in a run: so many times, evenly over the budget, the last time at its very end.

It is a pure function of step and budget: every rank agrees without talking, and a resumed run keeps the rhythm.
"""

from __future__ import annotations

from pytorch_lightning import Trainer


def last(trainer: Trainer) -> bool:
    """Whether the step just done is the budget's last one."""
    return 0 < trainer.max_steps <= trainer.global_step


def due(trainer: Trainer, times: int) -> bool:
    """Whether the step just done is one of `times` evenly spaced ones: 10 is every tenth of the run, 0 is never."""
    if trainer.max_steps < 1:
        return False
    step = trainer.global_step
    return step * times // trainer.max_steps > (step - 1) * times // trainer.max_steps
