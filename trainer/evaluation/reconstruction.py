"""How much of an image an autoencoder keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.evaluation.protocol import Study
from trainer.metrics import distributed
from trainer.metrics.similarity import psnr, ssim
from trainer.runs.results import Figure


class Reconstruction:
    """Mean PSNR in dB, SSIM and, where its network is given, LPIPS of references and what comes back of them.

    lpips: two uint8 batches (N, 3, H, W) -> (N,), with `sha256`; None leaves it out. The objective has `reconstruct`.
    """

    def __init__(self, lpips: Any = None):
        self.lpips = lpips

    def prepare(self, study: Study) -> None:
        self.study = study

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Samples have no original to be like."""

    def figures(self) -> list[Figure]:
        study, sampler = self.study, self.study.sampler
        measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, "ssim": ssim}
        if self.lpips is not None:
            measures["lpips"] = self.lpips.to(study.device)
        sums = torch.zeros(1 + len(measures), dtype=torch.float64)
        index = study.reference_index
        with sampler.objective.ema_weights():
            for numbers, pixels in study.reference_images():
                captions = [study.references.captions[index[i]] for i in numbers]
                images = pixels.to(study.device)
                back = sampler.reconstruct(images, captions)
                values = [measure(back, images).double().sum() for measure in measures.values()]
                sums += torch.stack([torch.tensor(len(numbers), dtype=torch.float64), *(v.cpu() for v in values)])
        count, *totals = distributed.add(sums, study.device).tolist()
        protocol: dict[str, Any] = {"num_images": study.num_references, "captions": "own", "seed": None}
        found = []
        for name, total in zip(measures, totals, strict=True):
            more = {"sha256": self.lpips.sha256[:12]} if name == "lpips" else {}
            better = "lower" if name == "lpips" else "higher"
            found.append(study.figure(name, total / count, better, **protocol | more))
        return found
