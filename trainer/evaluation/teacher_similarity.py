"""How like its samples are to those of another model at the same captions and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.evaluation.protocol import Study
from trainer.metrics import distributed
from trainer.metrics.similarity import psnr, ssim
from trainer.runs.results import Figure
from trainer.sampling.sampler import Sampler

SAME = 80.0  # dB: an exact image counts as this, above what one grey level in one of 10,000 values leaves


class Likeness:
    """Mean PSNR in dB and SSIM of every sample and what `teacher` draws for the same caption and seed.

    name: of the teacher, for the protocol. Both draw at one resolution. An exact copy has 80 dB, not infinitely many.
    """

    def __init__(self, teacher: Sampler, name: str):
        self.teacher = teacher
        self.name = name

    def prepare(self, study: Study) -> None:
        self.study = study
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        captions, seeds = self.study.captions, [self.study.seed + i for i in numbers]
        wanted = self.teacher([captions[i] for i in numbers], seeds, self.study.sources(numbers))
        values = psnr(images, wanted).clamp(max=SAME), ssim(images, wanted)
        self._sums += torch.tensor([len(numbers), *(value.double().sum().item() for value in values)])

    def figures(self) -> list[Figure]:
        count, *totals = distributed.add(self._sums, self.study.device).tolist()
        names = ("psnr_teacher", "ssim_teacher")
        return [
            self.study.figure(name, total / count, "higher", teacher=self.name)
            for name, total in zip(names, totals, strict=True)
        ]
