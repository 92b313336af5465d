"""Whether the caption says in which style a picture is translated (data=emoji_styles)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.evaluation.protocol import AT_ONCE, Study, spread, stacked
from trainer.metrics import distributed
from trainer.runs.results import Figure

EACH = 256  # training pictures of a style


class Styles:
    """Share of samples, and of the real pictures of the same captions, that are nearest to the style asked for.

    Nearest by the cosine of features and the mean features of `EACH` training pictures of a style, all with the mean of
    these means taken away. train: a split whose attributes name the `target` style.
    """

    def __init__(self, backbone: Any, train: Any):
        self.backbone, self.train = backbone, train

    def prepare(self, study: Study) -> None:
        self.study, self.backbone = study, self.backbone.to(study.device)
        asked = [each["target"] for each in self.train.attributes]
        self.names = sorted(set(asked))
        centres = []
        for name in self.names:
            numbers = [number for number, style in enumerate(asked) if style == name]
            chosen = [numbers[i] for i in spread(len(numbers), min(EACH, len(numbers)))]
            parts = [chosen[begin : begin + AT_ONCE] for begin in range(0, len(chosen), AT_ONCE)]
            features = [self.features(stacked(self.train.images, part)) for part in parts]
            centres.append(torch.cat(features).mean(0))
        self.middle = torch.stack(centres).mean(0)
        self.centres = F.normalize(torch.stack(centres) - self.middle, dim=1)
        self.sums = torch.zeros(3, dtype=torch.float64)

    def features(self, images: Tensor) -> Tensor:
        return self.backbone.features(images.to(self.study.device)).float()

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        told = self.study.references.attributes
        asked = torch.tensor([self.names.index(told[self.study.chosen[i]]["target"]) for i in numbers])
        right = [
            (F.normalize(self.features(each) - self.middle, dim=1) @ self.centres.T).argmax(1).cpu() == asked
            for each in (images, self.study.originals(numbers))
        ]
        self.sums += torch.tensor([len(numbers), *(each.sum() for each in right)], dtype=torch.float64)

    def figures(self) -> list[Figure]:
        count, drawn, real = distributed.add(self.sums, self.study.device).tolist()
        backbone = self.backbone
        told = {"styles": self.names, "backbone": backbone.name, "sha256": backbone.sha256[:12]}
        shares = {f"styles_{backbone.name}": drawn / count, f"styles_{backbone.name}_real": real / count}
        return [self.study.figure(name, share, "higher", **told) for name, share in shares.items()]
