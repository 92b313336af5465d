"""What a captioner writes of held-out images, while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer

from trainer.callbacks.log import record
from trainer.callbacks.schedule import due
from trainer.errors import UserError
from trainer.evaluation.captions import Captions
from trainer.evaluation.protocol import Study
from trainer.process.progress import best_effort, say
from trainer.runs.checkpoint_files import kimg_name
from trainer.sampling.grids import grid
from trainer.sampling.sampler import Sampler


class WrittenCaptions(Callback):
    """`val/cider_d`, `val/bleu4`, `val/rouge_l` and, of scenes, `val/attributes_caption`, `times` in a run.

    Of at most `max_images` held-out images, evenly chosen, with the EMA weights; all ranks share the work and get the
    same values. RUN/samples/latest.png, or RUN/captions/latest.png where the run draws as well, shows the first
    `num_images` with what was written of them.
    """

    def __init__(self, times: int = 10, max_images: int = 500, beams: int = 1, num_images: int = 32) -> None:
        if times < 0 or max_images < 2 or beams < 1 or num_images < 1:
            raise UserError(
                f"callbacks.captions: times={times}, max_images={max_images}, beams={beams}, num_images={num_images}: "
                "expected at least 0, 2, 1 and 1"
            )
        self.times, self.max_images, self.beams, self.num_images = times, max_images, beams, num_images

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        if len(trainer.datamodule.heldout.captions) < 2 and self.times:  # type: ignore[attr-defined]
            if trainer.is_global_zero:
                say("val/cider_d is off: it needs held-out images, see data.heldout")
            self.times = 0

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not due(trainer, self.times):
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        study = Study(
            sampler=Sampler(objective, data.text), references=data.heldout, split="heldout", num_images=self.max_images,
            num_references=self.max_images, data=data.fingerprint, checkpoint="", kimg=objective.images_seen / 1000,
        )  # fmt: skip
        measure = Captions(self.beams)
        measure.prepare(study)
        with objective.ema_weights():  # all ranks together, each writes its share
            found = measure.figures()
        record(trainer, {f"val/{figure.metric}": figure.value for figure in found})
        if not trainer.is_global_zero:
            return
        values = "  ".join(f"val/{figure.metric} {figure.value:.4g}" for figure in found)
        print(f"kimg {study.kimg:.1f}  {values}  {study.num_references} held-out images", flush=True)
        shown = study.reference_index[: self.num_images]
        folder = "captions" if objective.draws_with else "samples"  # there are what it draws
        path = Path(trainer.default_root_dir, folder, f"{kimg_name(objective.images_seen)}.png")
        with best_effort(path.parent), torch.inference_mode():
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = grid(study.pixels(shown), [text or "(nothing)" for text in measure.written[: len(shown)]], 8)
            sheet.save(path)
            sheet.save(path.with_name("latest.png"))
