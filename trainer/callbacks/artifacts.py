"""What a run leaves in a store of models: its checkpoints and the data that they come from."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from trainer.callbacks.checkpoint import BEST
from trainer.callbacks.guard import newest_checkpoint
from trainer.process import signals
from trainer.runs import checkpoint


class Artifacts(Callback):
    """At the end of a run, also of one that fails or Ctrl-C stops, to loggers that take them:

    - the data: where it is from, its fingerprint and counts, no pixels; a dataset artifact
    - the newest checkpoint with the alias latest and that of the best measurement with the alias best, which may be
      one; metadata: experiment, kimg, the measurement, the data's fingerprint
    - that best measurement as `best/value` and `best/kimg` of the run's summary

    Not where another signal stops the run: checksums of large files take longer than a cluster waits. The run that goes
    on leaves them.

    upload: store the content of checkpoints; else their place and checksum alone, which costs no space.
    Stands behind `Checkpoint`.
    """

    def __init__(self, upload: bool = False) -> None:
        self.upload = upload

    def on_train_end(self, trainer: Trainer, objective: Any) -> None:
        if signals.received in (0, signal.SIGINT):
            self._log(trainer, objective)

    def on_exception(self, trainer: Trainer, objective: Any, exception: BaseException) -> None:
        try:
            if not signals.received and hasattr(trainer.datamodule, "train"):  # type: ignore[attr-defined]
                self._log(trainer, objective)
        except Exception as error:  # the run's own failure is what has to be told
            print(f"no artifacts: {error}", file=sys.stderr, flush=True)

    def _log(self, trainer: Trainer, objective: Any) -> None:
        loggers: list[Any] = [logger for logger in trainer.loggers if hasattr(logger, "log_model")]
        newest = newest_checkpoint(trainer.default_root_dir)
        if not (loggers and newest and trainer.is_global_zero):
            return
        data = describe_data(objective.config["data"], trainer.datamodule)  # type: ignore[attr-defined]
        versions = [(newest, ["latest"], metadata(newest, objective.config, data))]
        best = newest.with_name(BEST)
        if best.exists():
            about = metadata(best, objective.config, data)
            if about == versions[0][2]:  # one checkpoint under two names
                versions = [(best, ["latest", "best"], about)]
            else:
                versions.insert(0, (best, ["best"], about))
        for logger in loggers:
            logger.log_data(data["source"], data)
            for path, aliases, about in versions:
                logger.log_model(path, aliases, about, self.upload)
                if "best" in aliases:
                    logger.log_summary({"best/value": about["value"], "best/kimg": about["kimg"]})


def describe_data(config: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """What tells one data set from another: `config` is that of the data module."""
    return {
        "source": type(data.source).__name__.lower(),
        "config": dict(config["source"]),
        "fingerprint": data.fingerprint,
        "resolution": data.resolution,
        "images": {"train": len(data.train), "heldout": len(data.heldout)},
        "captions": len(data.train.cache.captions),
        "heldout": {"fraction": data.fraction, "seed": data.split_seed},
    }


def metadata(path: Path, config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself. metric, value: the last measurement before it, at `measured_kimg`."""
    saved = checkpoint.read(path)
    about = {
        "experiment": config["name"],
        "kimg": saved["images_seen"] / 1000,
        "step": saved["global_step"],
        "data": data["fingerprint"],
    }
    if measured := saved.get("measured"):
        about |= {"metric": measured["metric"], "value": measured["value"], "measured_kimg": measured["kimg"]}
    return about
