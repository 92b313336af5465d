"""What a person sees of a run: a start panel, a bar or a line every ten seconds, an end summary."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from rich import progress as rich_progress

from trainer.callbacks.guard import newest_checkpoint
from trainer.callbacks.schedule import last
from trainer.process.progress import best_effort
from trainer.report.run import curves

_DISTANCE = "val/fd_"  # and the name of the backbone that judges
_SHOWN = {
    "throughput/data_wait_percent": "wait {:.1f}%",
    "memory/peak_gib": "mem {:.1f} GiB",
}


class Progress(Callback):
    """Prints on rank 0: a bar on a terminal, else one plain line every `every_seconds`, flushed, for log files.

    Panel and summary are also RUN/README.md, so that the folder explains itself. Stands last in the list of callbacks.
    """

    def __init__(self, every_seconds: float = 10) -> None:
        self.every_seconds = every_seconds
        self._bar: rich_progress.Progress | None = None
        self._panel: list[tuple[str, str]] = []
        self._distance = ""  # the metric that `_last` and `_best` are of
        self._last: tuple[float, float] | None = None  # (kimg, value) of the newest evaluation
        self._best: tuple[float, float] | None = None  # of all, restarts included
        self._before: dict[str, tuple[float, float]] = {}  # the best of each distance in earlier starts
        self._started = self._printed = 0.0
        self._first_step = self._first_images = 0

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        self._started = self._printed = time.monotonic()
        self._first_step, self._first_images = trainer.global_step, objective.images_seen
        if not trainer.is_global_zero:
            return
        for key, measured in curves(Path(trainer.default_root_dir, "metrics.csv")).items():
            before = [(kimg, value) for kimg, value in measured if kimg <= objective.images_seen / 1000]
            if key.startswith(_DISTANCE) and before:
                self._before[key] = min(before, key=lambda each: each[1])
        self._panel = describe(trainer, objective)
        width = max(len(key) for key, _ in self._panel)
        print("\n".join(f"  {key:<{width}}  {value}" for key, value in self._panel), flush=True)
        self._write_readme(trainer, [])
        if sys.stdout.isatty():
            self._bar = rich_progress.Progress(
                rich_progress.BarColumn(20), rich_progress.TextColumn("{task.description}"), transient=True
            )
            self._bar.add_task("starting", total=trainer.max_steps, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        key = next((key for key in trainer.callback_metrics if key.startswith(_DISTANCE)), None)
        if key and (not self._last or self._last[1] != float(trainer.callback_metrics[key])):
            self._distance = key
            self._last = (objective.images_seen / 1000, float(trainer.callback_metrics[key]))
            self._best = min(self._best or self._before.get(key, self._last), self._last, key=lambda each: each[1])
        now = time.monotonic()
        if now - self._printed < (0.2 if self._bar else self.every_seconds) and not last(trainer):
            return
        self._printed = now
        line = self.line(trainer, objective, now - self._started)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, description=line)
        else:
            print(line, flush=True)

    def line(self, trainer: Trainer, objective: Any, elapsed: float) -> str:
        """`kimg 12.8/100 (12%)  step 200  412 img/s  discriminator 0.71  generator 1.02  wait 0.3%  eta 3m12s`"""
        step, budget = trainer.global_step, trainer.max_steps
        done = max(1, step - self._first_step)
        kimg, images = objective.images_seen / 1000, objective.images_seen - self._first_images
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        speed = metrics.get("throughput/images_per_second", images / elapsed)
        parts = [
            f"kimg {kimg:.1f}/{kimg * budget / step:.4g} ({100 * step // budget}%)",
            f"step {step}",
            f"{speed:.0f} img/s",
        ]
        parts += [f"{key.removesuffix('/loss')} {value:.3g}" for key, value in metrics.items() if key.endswith("/loss")]
        parts += [f"{key.removeprefix('val/')} {metrics[key]:.1f}" for key in metrics if key.startswith(_DISTANCE)]
        parts += [text.format(metrics[key]) for key, text in _SHOWN.items() if key in metrics]
        parts.append(f"eta {duration(elapsed / done * (budget - step))}")
        return "  ".join(parts)

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        self._close_bar()
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        rows = [("trained", f"{objective.images_seen / 1000:.1f} kimg in {duration(time.monotonic() - self._started)}")]
        if self._last and self._best:
            best = f"best {self._best[1]:.2f} at kimg {self._best[0]:.1f}"
            rows.append((self._distance, f"last {self._last[1]:.2f}, {best}"))
        checkpoint = newest_checkpoint(run)
        rows.append(("checkpoint", str(checkpoint or "none")))
        if (run / "samples" / "latest.png").exists():
            rows.append(("samples", str(run / "samples" / "latest.png")))
        if checkpoint:
            if objective.latent_channels:  # it draws
                words = f"{source(objective)}{prompts(trainer)}"
                rows.append(("draw", f"python -m trainer.sample checkpoint={run}{words}"))
            if hasattr(objective, "captioner"):
                rows.append(("describe", f"python -m trainer.caption checkpoint={run} data=PICTURES"))
            if not last(trainer):
                rows.append(("go on", f"python -m trainer resume={run}"))
        print("\n".join(f"  {key:<13}  {value}" for key, value in rows), flush=True)
        self._write_readme(trainer, rows)

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _write_readme(self, trainer: Trainer, summary: list[tuple[str, str]]) -> None:
        run = Path(trainer.default_root_dir)
        rows = "\n".join(f"| {key} | {value} |" for key, value in self._panel + summary)
        with best_effort(run / "README.md"):
            run.mkdir(parents=True, exist_ok=True)
            (run / "README.md").write_text(f"# {self._panel[0][1]}\n\n| | |\n|---|---|\n{rows}\n\n{_CONTENTS}")


_CONTENTS = """- `report.html`: all of it on one page
- `metrics.csv`: numbers over the run
- `samples/`: grids of the same captions and seeds as training goes on
- `checkpoints/`: to sample from and to resume
- `config.yaml`, `environment.txt`: what was run, where
- `wandb/`: the run for Weights & Biases; `wandb leet wandb` shows it here, `wandb sync wandb/offline-run-*` uploads it
"""


def source(objective: Any) -> str:
    """` source=photo.png`, of an image task, with a mask where it fills holes; '' for others."""
    task = getattr(getattr(objective, "generator", None), "task", None)
    return "" if task is None else " source=photo.png" + " mask=mask.png" * task.holes


def prompts(trainer: Trainer) -> str:
    """` 'prompts=[a red apple]'`, of a caption of the data; '' for a model that is drawn without."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if getattr(data.text, "wordless", False):
        return ""
    fit = (caption for caption in data.fixed_captions(8) if re.fullmatch(r"[\w ]+", caption))  # needs no quoting
    return f" 'prompts=[{next(fit, 'a red apple')}]'"


def describe(trainer: Trainer, objective: Any) -> list[tuple[str, str]]:
    """The start panel's rows: what trains on what, where, and where it is written."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    source = type(data.source).__name__.lower()
    strategy: Any = trainer.strategy
    sizes = {
        name: sum(strategy.part(p).shape.numel() for p in network.parameters())  # of the whole, where ranks split it
        for name, network in objective.named_children()
    }
    rows = [
        ("experiment", str(objective.config.get("name", type(objective).__name__))),
        ("run folder", trainer.default_root_dir),
        ("data", f"{source}: {len(data.train.captions)} images to train on, {len(data.heldout.captions)} held out"),
        ("parameters", ", ".join(f"{name} {count(size)}" for name, size in sizes.items() if size)),
        ("devices", f"{trainer.world_size} x {trainer.strategy.root_device.type}, precision {trainer.precision}"),
    ]
    if num_skipped := data.skipped.read_bytes().count(b"\n"):
        rows.append(("skipped", f"{num_skipped} corrupt images, listed in {data.skipped}"))
    places = [getattr(logger, "where", type(logger).__name__) for logger in trainer.loggers]
    rows += [("logged to", place) for place in places if place]
    if trainer.ckpt_path:
        rows.append(("resumed from", f"{trainer.ckpt_path} at kimg {objective.images_seen / 1000:.1f}"))
    return rows


def count(number: int) -> str:
    """12345678 -> `12.3M`."""
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}k"


def duration(seconds: float) -> str:
    """192 -> `3m12s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{whole % 60:02}s" if minutes else f"{whole}s"
