"""How often a held-out image finds its own caption, while training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer

from trainer.callbacks.log import record
from trainer.callbacks.schedule import due
from trainer.errors import UserError
from trainer.evaluation.protocol import spread
from trainer.metrics import distributed
from trainer.metrics.text_match import r_precision
from trainer.process.progress import say

_AT_ONCE = 256  # images or captions in memory


class Retrieval(Callback):
    """`val/r_precision`: share of held-out images whose own caption ranks first among `candidates`, `times` in a run.

    The others are captions of other held-out images, drawn for each image and alike at every evaluation; the cosine of
    the EMA weights' vectors ranks them. At most `max_images` held-out images, evenly chosen. All ranks share the work
    and get the same value. Chance is 1 / candidates.
    """

    def __init__(self, times: int = 10, candidates: int = 100, max_images: int = 2000) -> None:
        if times < 0 or candidates < 2 or max_images < 2:
            raise UserError(
                f"callbacks.retrieval: times={times}, candidates={candidates}, max_images={max_images}: "
                "expected at least 0, 2 and 2"
            )
        self.times, self.candidates, self.max_images = times, candidates, max_images

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        """Before the first step, so that a split that is too small is known now and not at a tenth of the run."""
        heldout = trainer.datamodule.heldout  # type: ignore[attr-defined]
        available = len(heldout.captions)
        chosen = spread(available, min(available, self.max_images))
        captions = [heldout.captions[number] for number in chosen]
        distinct = list(dict.fromkeys(captions))
        if len(distinct) < self.candidates:
            if self.times and trainer.is_global_zero:
                say(f"val/r_precision is off: it needs {self.candidates} held-out captions, there are {len(distinct)}")
            self.times = 0
        self._chosen, self._distinct = chosen, distinct
        row = {caption: number for number, caption in enumerate(distinct)}
        self._own = torch.tensor([row[caption] for caption in captions], device=objective.device)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if not due(trainer, self.times):
            return
        data, device = trainer.datamodule, objective.device  # type: ignore[attr-defined]
        own = range(trainer.global_rank, len(self._chosen), trainer.world_size)
        images = []
        with objective.ema_weights():  # all ranks together, each embeds its share
            for start in range(0, len(own), _AT_ONCE):
                pixels = np.stack([data.heldout.images[self._chosen[i]] for i in own[start : start + _AT_ONCE]])
                image = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float().div_(127.5).sub_(1)
                images.append(objective.matcher.image(image)[0])
            texts = torch.cat(
                [
                    objective.matcher.text(data.text(self._distinct[i : i + _AT_ONCE]).to(device))[0]
                    for i in range(0, len(self._distinct), _AT_ONCE)
                ]
            )
        numbers = torch.tensor(list(own), device=device)
        rows = torch.cat(images) if images else torch.zeros(0, texts.shape[1], device=device)
        every = distributed.gather(rows.float(), numbers)
        value = r_precision(every, texts.float(), self._own, self.candidates, seed=0)
        record(trainer, {"val/r_precision": value})
        if trainer.is_global_zero:
            kimg = objective.images_seen / 1000
            print(f"kimg {kimg:.1f}  val/r_precision {value:.2%}  {len(every)} held-out images", flush=True)
