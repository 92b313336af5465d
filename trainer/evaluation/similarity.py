"""How like an image task's pictures are to those that their sources were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.evaluation.protocol import Study
from trainer.evaluation.teacher_similarity import SAME
from trainer.metrics import distributed
from trainer.metrics.similarity import psnr, ssim
from trainer.runs.results import Figure


class Similarity:
    """Mean PSNR in dB, SSIM and, where their networks are given, LPIPS and a distance of features, of samples and the
    originals of their sources.

    A picture that comes back without a fault counts as `SAME` dB. lpips: two uint8 batches (N, 3, H, W) -> (N,), with
    `sha256`; None leaves it out. backbone: of `trainer.backbones`; distance_NAME is the mean of 1 - cos(f(x), f(y)).
    """

    def __init__(self, lpips: Any = None, backbone: Any = None):
        self.lpips, self.backbone = lpips, backbone

    def prepare(self, study: Study) -> None:
        self.study = study
        self.measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "psnr": lambda images, originals: psnr(images, originals).clamp(max=SAME),
            "ssim": ssim,
        }
        if self.lpips is not None:
            self.measures["lpips"] = self.lpips.to(study.device)
        if self.backbone is not None:
            self.backbone = self.backbone.to(study.device)
            self.measures[f"distance_{self.backbone.name}"] = self.distance
        self.sums = torch.zeros(1 + len(self.measures), dtype=torch.float64)

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        originals = self.study.originals(numbers).to(images.device)
        values = [measure(images, originals).double().sum().cpu() for measure in self.measures.values()]
        self.sums += torch.stack([torch.tensor(len(numbers), dtype=torch.float64), *values])

    def distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """(N,)"""
        pair = (F.normalize(self.backbone.features(each).float(), dim=1) for each in (images, originals))
        return 1 - torch.linalg.vecdot(*pair)

    def figures(self) -> list[Figure]:
        count, *totals = distributed.add(self.sums, self.study.device).tolist()
        found = []
        for name, total in zip(self.measures, totals, strict=True):
            network = {"lpips": self.lpips}.get(name, self.backbone if name.startswith("distance") else None)
            more = {"sha256": network.sha256[:12]} if network else {}
            better = "lower" if network else "higher"
            found.append(self.study.figure(name, total / count, better, task=str(self.study.sampler.task), **more))
        return found
