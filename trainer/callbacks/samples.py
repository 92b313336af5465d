"""The same captions and the same seeds, again and again: how the pictures grow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from trainer.callbacks.schedule import due, kimg_name
from trainer.images import grid
from trainer.sampling import Sampler


class Samples(Callback):
    """A grid of fixed captions and seeds, drawn with the EMA weights, `times` in a run and so at its end.

    Writes RUN/samples/kimg000012.800.png and latest.png, and each image with its caption to loggers that take images.
    """

    def __init__(self, times: int = 10, num_images: int = 32, columns: int = 8) -> None:
        self.times = times
        self.num_images = num_images
        self.columns = columns

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not due(trainer, self.times):
            return
        with objective.ema_weights():  # all ranks enter, one draws
            if trainer.is_global_zero:
                self._draw(trainer, objective)

    def _draw(self, trainer: Trainer, objective: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        captions = data.fixed_captions(self.num_images)
        images = Sampler(objective, data.text)(captions, range(len(captions)))
        path = Path(trainer.default_root_dir, "samples", f"{kimg_name(objective.images_seen)}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(images, captions, self.columns).save(path)
        shutil.copyfile(path, path.with_name("latest.png"))
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
                logger.log_metrics({"progress/kimg": objective.images_seen / 1000}, step=trainer.global_step)  # x axis
                logger.log_image("samples", pictures, step=trainer.global_step, caption=captions)
