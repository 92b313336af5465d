"""A signal breaks a measurement off; the run that goes on makes it, and ends as one that was never stopped."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from tests.runs.test_resume import same
from trainer.callbacks.alerts import Alerts
from trainer.callbacks.artifacts import Artifacts
from trainer.callbacks.checkpoint import Checkpoint
from trainer.callbacks.ema import EMA
from trainer.callbacks.evaluation import Evaluation
from trainer.callbacks.stop import Stop
from trainer.loggers.csv import CSV
from trainer.runs import results
from trainer.strategies.single import Single

STEPS = 8


class Means(torch.nn.Module):
    """Features by which a signal comes while the samples of measurement `at` pass."""

    name, sha256, width, resizer = "means", "0" * 64, 8, ""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) == 6:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
        return images.float().mean(2)[:, 0]


def fit(folder: Path, objective, data, at: int = 0, start: Path | None = None) -> Trainer:
    data.cache_dir = str(folder / "cache")
    metric = {"metric": "val/fd_means"}
    callbacks = [
        *(EMA(halflife_kimg=0.1), Evaluation(Means(at), times=4, num_images=6), Stop(), Alerts(**metric)),
        *(Checkpoint(times=1, **metric), Artifacts()),
    ]
    trainer = Trainer(
        default_root_dir=str(folder), callbacks=callbacks, logger=CSV(str(folder / "metrics.csv")), max_steps=STEPS,
        max_epochs=1, accelerator="cpu", strategy=Single("cpu"), enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(objective, data, ckpt_path=start)
    return trainer


def left(folder: Path) -> dict[str, object]:
    last = torch.load(max(folder.glob("checkpoints/kimg*.ckpt")), weights_only=True)
    best = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    with open(folder / "metrics.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    keys = ("state_dict", "ema", "optimizer_states", "measured", "callbacks", "images_seen")
    return {
        "last": {key: last[key] for key in keys},
        "best": {key: best[key] for key in ("state_dict", "measured", "images_seen")},
        "rows": rows,
        "figures": [(figure.value, figure.checkpoint) for figure in results.read(folder)],
    }


@pytest.mark.parametrize("at", range(1, 5))
def test_a_measurement_that_is_broken_off_is_made_by_the_run_that_goes_on(tmp_path, objective, data, at):
    before = signal.getsignal(signal.SIGTERM)
    fit(tmp_path / "whole", type(objective)(), data)
    stopped = fit(tmp_path / "run", type(objective)(), data, at)
    assert stopped.global_step == 2 * at
    (saved,) = (tmp_path / "run/checkpoints").glob(f"kimg000000.{8 * at:03}.ckpt")
    measured = torch.load(saved, weights_only=True)["measured"]
    assert (measured["kimg"] if measured else 0) == 8 * (at - 1) / 1000, "nothing of what was broken off counts"
    assert signal.getsignal(signal.SIGTERM) == before
    resumed = fit(tmp_path / "run", type(objective)(), data, start=saved)
    assert resumed.global_step == resumed.max_steps == STEPS
    same(left(tmp_path / "run"), left(tmp_path / "whole"))
