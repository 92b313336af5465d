"""What a run answers to the sweep that it belongs to."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trainer.errors import DivergedError, UserError


def answer(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """What `task` returns; under Optuna, a run that diverges is infinitely bad and the next has its turn."""
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return task(cfg)
    try:
        value = task(cfg)
    except DivergedError as error:
        if "optuna" not in hydra.sweeper._target_:
            raise
        print(error, file=sys.stderr, flush=True)
        return -math.inf if OmegaConf.select(cfg, "callbacks.checkpoint.better") == "higher" else math.inf
    if value is None and "optuna" in hydra.sweeper._target_:
        raise UserError(
            "hydra/sweeper=optuna has nothing to minimise: the run never measured callbacks.checkpoint.metric; "
            "keep callbacks.evaluation and callbacks.checkpoint"
        )
    return value
