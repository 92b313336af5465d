"""Whether a sample shows what its caption says, read by models that know images and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.evaluation.protocol import Study
from trainer.metrics import distributed
from trainer.metrics.text_match import clip_score, r_precision
from trainer.runs.results import Figure

PREFIX = "A photo depicts "  # of each caption that CLIPScore reads (Hessel et al. 2021, section 3)


class TextMatch:
    """R-precision (Xu et al. 2018) by a judge, and CLIPScore (Hessel et al. 2021) where the judge is a CLIP.

    judge: has `name`, `sha256` and `resizer` for the protocol. images: (N, 3, H, W) uint8 -> (N, D). captions: M texts
    -> (M, D), in the same space. num_candidates: captions among which a sample's own has to rank first.
    """

    def __init__(
        self,
        judge: Any,
        images: Callable[[Tensor], Tensor],
        captions: Callable[[Sequence[str]], Tensor],
        metrics: Sequence[str],
        num_candidates: int = 100,
    ):
        self.judge, self.images, self.captions = judge, images, captions
        self.metrics = metrics
        self.num_candidates = num_candidates

    def prepare(self, study: Study) -> None:
        self.study = study
        if "r_precision" in self.metrics and (distinct := len(set(study.captions))) < self.num_candidates:
            raise UserError(
                f"r_precision ranks among {self.num_candidates} captions, {study.num_images} samples have {distinct}: "
                "raise num_images, or say split=train"
            )
        self._numbers: list[int] = []
        self._rows: list[Tensor] = []

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        self._numbers += numbers
        self._rows.append(self.images(images).float())

    def figures(self) -> list[Figure]:
        distinct = list(dict.fromkeys(self.study.captions))
        texts = self.captions(distinct).float()
        where = {caption: row for row, caption in enumerate(distinct)}
        own = torch.tensor([where[caption] for caption in self.study.captions], device=texts.device)
        device = texts.device
        rows = torch.cat(self._rows) if self._rows else torch.zeros(0, texts.shape[1], device=device)
        images = distributed.gather(rows.to(device), torch.tensor(self._numbers, dtype=torch.int64, device=device))
        judge = self.judge
        protocol: dict[str, Any] = {"judge": judge.name, "sha256": judge.sha256[:12], "resizer": judge.resizer}
        found = []
        if "r_precision" in self.metrics:
            right = r_precision(images, texts, own, self.num_candidates, self.study.seed)
            more = protocol | {"candidates": self.num_candidates}
            found.append(self.study.figure(f"r_precision_{judge.name}", right, "higher", **more))
        if "clip_score" in self.metrics:
            described = self.captions([PREFIX + caption for caption in distinct]).float()
            value = clip_score(images, described[own]).mean().item()
            found.append(self.study.figure("clip_score", value, "higher", **protocol, prefix=PREFIX.strip()))
        return found
