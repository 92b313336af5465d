"""What a run answers to the sweep that it belongs to."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trainer.config.command_line import OVERRIDE, SWEEPS, parsed
from trainer.errors import DivergedError, UserError

_failed: list[str] = []  # job and overrides of runs of this process


def later(arguments: Sequence[str], groups: Container[str]) -> list[str]:
    """Of a sweep over groups, as -m experiment=a,b, the arguments with keys of parts, as data.source.seed=1, put off.

    Hydra merges what is not swept once before the first run, without any of the swept groups: keys of these it did not
    know. A sweep over one value it leaves to each run; of null there is none. Optuna would count that as a dimension.
    """
    if not {*SWEEPS} & {*arguments} or any(each.startswith("hydra/sweeper=") for each in arguments):
        return [*arguments]
    readings = [parsed(argument) for argument in arguments]
    if not any(each and each.is_sweep_override() and each.key_or_group in groups for each in readings):
        return [*arguments]
    return [
        put_off(argument) if reading and not reading.is_sweep_override() else argument
        for argument, reading in zip(arguments, readings, strict=True)
    ]


def put_off(argument: str) -> str:
    """An override of a key or group within a part as a sweep over its value; any other as it is."""
    override = OVERRIDE.fullmatch(argument)
    if not override or "." not in override[1] or override[1].lstrip("+").startswith("hydra"):
        return argument
    alone = f"{override[1]}=choice({override[2]})"
    return alone if parsed(alone) else argument


@contextmanager
def keep_going() -> Iterator[None]:
    """A run that fails, with a line or a traceback and exit code 1 or 2, does not keep the next from its turn.

    Not under Optuna, whose trials all have the same mistake, nor where another process shall hear of it.
    """
    try:
        yield
    except SystemExit as end:
        hydra = HydraConfig.get()
        one_by_one = hydra.mode == RunMode.MULTIRUN and hydra.launcher._target_.endswith(".BasicLauncher")
        if not one_by_one or "optuna" in hydra.sweeper._target_ or end.code not in (1, 2):
            raise
        _failed.append(f"  {hydra.job.num}: {hydra.job.override_dirname}")


def exit_if_failed() -> None:
    """Lists the runs of a sweep that failed and ends with code 2, if any did."""
    if _failed:
        print(f"failed runs of the sweep: {len(_failed)}", *_failed, sep="\n", file=sys.stderr, flush=True)
        _failed.clear()  # for a sweep started from Python afterwards
        sys.exit(2)


def run_job(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
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
