"""Saves the run, by itself and when asked to stop."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pytorch_lightning import Callback, Trainer

from trainer.callbacks.checkpoint_io import AtomicCheckpointIO, recover, remove, replace
from trainer.callbacks.guard import check_weights
from trainer.callbacks.random_state import random_state, restore_random_state
from trainer.callbacks.saving import Saving
from trainer.callbacks.schedule import due, last
from trainer.errors import DamagedError, UserError
from trainer.process.progress import say
from trainer.runs import checkpoint
from trainer.runs.checkpoint_files import images_of, in_order, kimg_name
from trainer.runs.moved import VERSION

BEST = "best.ckpt"


class Checkpoint(Callback):
    """Writes RUN/checkpoints/kimg000012.800.ckpt: `times` in a run and at its end, each `every_minutes`, at a stop.

    Keeps the newest `keep`, and best.ckpt, the one of the best `metric` that was measured in this folder: it is
    saved at once, under its number too, and costs no space of its own until that goes. `best` is its value. "measured"
    in a checkpoint is the last measurement before it.
    Checkpoints are taken at the end of a batch, so a resumed run goes on with the next one.
    A full disk costs the oldest but one; a checkpoint that cannot be written all the same is told, and training goes on
    with those there are, except at its end or at a stop, where it is a UserError.
    Weights that are not finite are never saved (UserError). The random state of every rank is kept as "rng".
    better: "lower" or "higher", which way `metric` is. A sweep then has direction=minimize or maximize.
    sharded: a folder of that name, in which every rank writes what it holds, for models that are too large for one
    process. Either is read by any strategy on any number of ranks.
    asynchronous: a copy in main memory is written by a thread while training goes on; the last one, and that of a stop,
    are waited for.
    """

    def __init__(
        self,
        times: int = 10,
        every_minutes: float = 15,
        keep: int = 2,
        sharded: bool = False,
        metric: str = "val/fd_effnet",
        better: str = "lower",
        asynchronous: bool = False,
    ) -> None:
        if better not in ("lower", "higher"):
            raise UserError(f"callbacks.checkpoint.better={better}: expected lower or higher")
        if keep < 1:
            raise UserError(f"callbacks.checkpoint.keep={keep}: keep at least 1")
        self.folder = Path()
        self.times = times
        self.every_minutes = every_minutes
        self.keep = keep
        self.sharded = sharded
        self.metric = metric
        self.better = better
        self.asynchronous = asynchronous
        self.best: float | None = None
        self._saving: Saving | None = None
        self._value: Any = None
        self._measured: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._random_state: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, objective: Any, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir, "checkpoints")
        strategy: Any = trainer.strategy
        strategy.sharded_checkpoints = self.sharded and trainer.world_size > 1
        threads = self.asynchronous and strategy.sharded_checkpoints  # which may not speak in the ranks' own group
        strategy.checkpoint_io = AtomicCheckpointIO(dist.new_group(backend="gloo") if threads else None)
        if trainer.is_global_zero and self.folder.is_dir():
            recover(self.folder)
            for leftover in self.folder.glob(".*.tmp"):  # of a killed run
                remove(leftover)

    def on_save_checkpoint(self, trainer: Trainer, objective: Any, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states *= trainer.world_size
            dist.all_gather_object(states, states[0])
        checkpoint |= {"version": VERSION, "rng": states, "measured": self._measured}

    def on_load_checkpoint(self, trainer: Trainer, objective: Any, checkpoint: dict[str, Any]) -> None:
        self._measured = checkpoint.get("measured")
        if len(checkpoint["rng"]) == trainer.world_size:  # else there is nothing to continue exactly
            self._random_state = checkpoint["rng"][trainer.global_rank]

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self._set_aside(objective.images_seen)
            self.best = self._kept_best(objective.images_seen)
        self.best = trainer.strategy.broadcast(self.best)
        if self._random_state is not None:  # now, as building the networks and the loader has drawn numbers
            restore_random_state(self._random_state)
        improved = self._improves(trainer, objective)
        if self._value is not None:  # measured now: see Evaluation
            self.save(trainer, objective, improved)

    def _set_aside(self, now: int) -> None:
        """Moves checkpoints that a resume from before them gives up; they would pass for the newest."""
        for given_up in [path for path in in_order(self.folder) if images_of(path) > now]:
            self._move_aside(given_up, given_up.name)

    def _move_aside(self, given_up: Path, name: str) -> None:
        aside = self.folder / "set_aside" / name
        aside.parent.mkdir(exist_ok=True)
        if aside.exists():
            remove(aside)
        given_up.replace(aside)
        print(f"{given_up.name} is after this start: moved to {aside}", flush=True)

    def _kept_best(self, now: int) -> float | None:
        """Value of the best.ckpt in the folder, unless it is from after this start.

        Where a kill came between the save of a better one and its second name, it gets that now.
        """
        value = None
        if (self.folder / BEST).exists():
            try:
                kept = checkpoint.read(self.folder / BEST)
                if kept["images_seen"] > now:
                    self._move_aside(self.folder / BEST, f"{kimg_name(kept['images_seen'])}.ckpt")
                elif (measured := kept.get("measured")) and measured["metric"] == self.metric:
                    value = measured["value"]
            except DamagedError as error:
                say(f"{error}: the next measurement is the best")
        here, measured = self.folder / f"{kimg_name(now)}.ckpt", self._measured
        if not (measured and measured["metric"] == self.metric and measured["kimg"] == now / 1000 and here.exists()):
            return value
        if math.isfinite(measured["value"]) and (value is None or beats(measured["value"], value, self.better)):
            self._name_best(here)
            value = measured["value"]
        return value

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        improved = self._improves(trainer, objective)
        if improved or due(trainer, self.times) or trainer.should_stop or self._overdue(trainer):
            self.save(trainer, objective, improved)
        elif self._saving and trainer.global_step % 20 == 0 and trainer.strategy.broadcast(self._saving.done):
            self._settle(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        if self._saving and not self.sharded:  # the folder is another's when this process has left
            self._saving.failure()

    def _name_best(self, path: Path) -> None:
        try:
            link(path, self.folder / BEST)
        except (OSError, UserError) as error:
            say(f"{BEST} is not {path.name}, which is the best: {error}")

    def _improves(self, trainer: Trainer, objective: Any) -> bool:
        """Whether this step has measured the best value so far."""
        value = trainer.callback_metrics.get(self.metric)
        if value is None or value is self._value:  # every measurement is a tensor of its own
            return False
        self._value = value
        self._measured = {"metric": self.metric, "value": float(value), "kimg": objective.images_seen / 1000}
        best = self.best if self._saving is None or self._saving.best is None else self._saving.best
        return math.isfinite(value) and (best is None or beats(float(value), best, self.better))

    def _overdue(self, trainer: Trainer) -> bool:
        if trainer.global_step % 20:  # ranks must agree on the clock; asking at every step would cost
            return False
        late = time.monotonic() - self._saved_at > self.every_minutes * 60
        return trainer.strategy.broadcast(late)

    def save(self, trainer: Trainer, objective: Any, improved: bool = False) -> None:
        """Where it cannot be written that is told; UserError where no later save can make up for it."""
        self._settle(trainer)
        check_weights(trainer)
        path = self.folder / f"{kimg_name(objective.images_seen)}.ckpt"
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        final = trainer.should_stop or last(trainer)
        best = float(self._value) if improved else None
        self._saving = Saving(trainer.strategy, content, path, best, final, self.asynchronous and not final)
        self._saved_at = time.monotonic()
        if not self.asynchronous or final:
            self._settle(trainer)

    def _settle(self, trainer: Trainer) -> None:
        """What follows from the checkpoint that was being written, when it is. All ranks learn alike whether it failed;
        Lightning's own way would leave the others waiting."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        failure = trainer.strategy.broadcast(saving.failure())
        if failure and trainer.strategy.broadcast(self._prune(self.keep - 1, trainer)):
            saving.write()
            failure = trainer.strategy.broadcast(saving.failure())
        if not failure:
            self._prune(self.keep, trainer)
            if saving.best is not None:
                self.best = saving.best
                if trainer.is_global_zero:
                    self._name_best(saving.path)
        elif saving.final:
            raise UserError(failure)
        elif trainer.is_global_zero:
            say(f"{failure}. Training goes on; the checkpoints that are there stay")

    def _prune(self, keep: int, trainer: Trainer) -> int:
        """Removes all but the newest `keep`, and never the last one; their number."""
        old = in_order(self.folder)[: -max(1, keep)] if trainer.is_global_zero else []
        for path in old:
            remove(path)
        return len(old)


def beats(value: float, best: float, better: str) -> bool:
    return value < best if better == "lower" else value > best


def link(checkpoint: Path, name: Path) -> None:
    """`name` becomes a second name of a checkpoint, which then is there until both are deleted."""
    temporary = name.with_name(f".{name.name}.tmp")
    remove(temporary)
    if checkpoint.is_dir():
        shutil.copytree(checkpoint, temporary, copy_function=hard_link)
    else:
        hard_link(checkpoint, temporary)
    replace(temporary, name)
    if temporary.is_file():  # a rename does nothing where both are one file already
        temporary.unlink()


def hard_link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have none
        shutil.copyfile(source, target)
