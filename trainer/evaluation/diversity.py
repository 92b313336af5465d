"""How much the samples of one caption differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.evaluation.protocol import Study, shares, spread
from trainer.metrics import distributed
from trainer.metrics.diversity import pairwise_distance
from trainer.runs.results import Figure

PER_CAPTION = 8


class Diversity:
    """Mean distance in a backbone's features between two of 8 samples of a caption, over evenly chosen captions.

    0 is a model that draws one image a caption. Captions and seeds do not depend on the number of other samples.
    """

    def __init__(self, backbone: Any, num_captions: int = 100):
        self.backbone, self.num_captions = backbone, num_captions

    def prepare(self, study: Study) -> None:
        self.study = study
        self.backbone = self.backbone.to(study.device)

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Draws its own samples."""

    def figures(self) -> list[Figure]:
        study = self.study
        distinct = list(dict.fromkeys(study.references.captions))
        chosen = [distinct[i] for i in spread(len(distinct), min(self.num_captions, len(distinct)))]
        sums = torch.zeros(2, dtype=torch.float64)
        for numbers in shares(len(chosen), "diversity: measured", "captions"):
            for number in numbers:
                seeds = range(study.seed + number * PER_CAPTION, study.seed + (number + 1) * PER_CAPTION)
                features = self.backbone.features(study.sampler([chosen[number]] * PER_CAPTION, seeds))
                distance = pairwise_distance(features).double().cpu()
                sums += torch.stack([distance, torch.ones((), dtype=torch.float64)])
        total, count = distributed.add(sums, study.device).tolist()
        backbone = self.backbone
        return [
            study.figure(
                f"diversity_{backbone.name}", total / count, "higher", num_images=len(chosen) * PER_CAPTION,
                images_a_caption=PER_CAPTION, backbone=backbone.name, sha256=backbone.sha256[:12],
                resizer=backbone.resizer,
            )
        ]  # fmt: skip
