"""The same captions and the same seeds, again and again: how the pictures grow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.callbacks.schedule import due, last
from trainer.evaluation.protocol import given, spread, stacked
from trainer.process.progress import best_effort
from trainer.runs.checkpoint_files import kimg_name
from trainer.sampling.grids import grid
from trainer.sampling.sampler import Sampler, as_pixels


class Samples(Callback):
    """A grid of fixed captions and seeds, drawn with the EMA weights, `times` in a run and so at its end.

    Half of the captions, as far as there are so many, were never trained on; the grid marks which. Of a run that draws
    nothing, but reconstructs, held-out images beside what comes back of them; of an image task held-out images, their
    sources, and two pictures drawn of each, the second by the caption alone where the run draws without a source.

    Writes RUN/samples/kimg000012.800.png and latest.png; to loggers that take them, each image with its caption as
    `samples/images` and, at the end alone, as a table of the first `table_rows` with their seeds as `samples/table`.
    """

    def __init__(self, times: int = 10, num_images: int = 32, columns: int = 8, table_rows: int = 16) -> None:
        self.times = times
        self.num_images = num_images
        self.columns = columns
        self.table_rows = table_rows

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not due(trainer, self.times):
            return
        with objective.ema_weights():  # all ranks enter, one draws
            if trainer.is_global_zero:
                self._draw(trainer, objective)

    def _draw(self, trainer: Trainer, objective: Any) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        sampler = Sampler(objective, data.text)
        alone = objective.draws_with and sampler.task is None
        if alone:
            captions = data.fixed_captions(self.num_images)
            images = sampler(captions, range(len(captions)))
        else:
            images, captions = self._beside_their_own(sampler, data)
        path = Path(trainer.default_root_dir, "samples", f"{kimg_name(objective.images_seen)}.png")
        temporary = path.with_suffix(".tmp")
        trained_on = data.trained_on(tuple(captions)) if alone else set()
        seen = [caption in trained_on for caption in captions] if alone else None
        with best_effort(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                grid(images, captions, self.columns, seen).save(temporary, "PNG")
                temporary.replace(path)
                shutil.copyfile(path, path.with_name("latest.png"))
            finally:
                temporary.unlink(missing_ok=True)
        pictures = list(images.permute(0, 2, 3, 1).cpu().numpy())
        step = trainer.global_step
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_metrics({"progress/kimg": objective.images_seen / 1000}, step=step)  # x axis
                logger.log_image("samples/images", pictures, step=step, caption=captions)
            if hasattr(logger, "log_sample_table") and last(trainer):  # W&B keeps a copy of every image it has
                rows = range(min(self.table_rows, len(captions)))
                logger.log_sample_table("samples/table", captions[: len(rows)], rows, pictures[: len(rows)], step)

    def _beside_their_own(self, sampler: Sampler, data: Any) -> tuple[Tensor, list[str]]:
        """Held-out images, each beside what comes back of it: pixels (N, 3, H, W) uint8, and captions.

        Of an image task there is what it starts from between them.
        """
        split = data.heldout if len(data.heldout) else data.train
        task = sampler.task
        each = 2 if task is None else 4
        index = spread(len(split), min(self.num_images // each, len(split)))
        captions = [split.captions[i] for i in index]
        images = stacked(split.images, index).to(sampler.device)
        if task is None:
            shown, words = [images, sampler.reconstruct(images, captions)], ["reconstructed"]
        else:
            position = torch.arange(len(index), device=sampler.device)
            starts = stacked(given(task, split), index).to(sampler.device)
            sources = task(starts.float().div(127.5).sub(1), 0, position)
            drawn = sampler(captions, range(len(index)), sources)
            dropped = bool(task.source_dropout)
            beside = sampler(captions, range(len(index), 2 * len(index)), None if dropped else sources)
            shown = [images, as_pixels(task.start(sources)), drawn, beside]
            words = ["source", "drawn", "by the caption alone" if dropped else "another seed"]
        return torch.stack(shown, 1).flatten(0, 1), [text for caption in captions for text in (caption, *words)]
