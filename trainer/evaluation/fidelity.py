"""How close samples are to real images, and how varied, in the features of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.evaluation.feature_cache import cached_features
from trainer.evaluation.protocol import Study, spread
from trainer.metrics import distributed
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments, square_root
from trainer.metrics.inception_score import inception_score, score_sums
from trainer.metrics.kernel import kernel_distance
from trainer.metrics.manifold import density_coverage, precision_recall
from trainer.runs.results import Figure

NEIGHBOURS = {"precision", "recall", "density", "coverage"}
METRICS = ("fd", "kd", "precision", "recall", "density", "coverage", "inception_score")


class Fidelity:
    """Fréchet distance, kernel distance, precision and recall, density and coverage, Inception Score.

    backbone: network of `trainer.backbones`. metrics: some of METRICS; None for all that the backbone has.
    cache_dir: where features of references are kept, named after all that they depend on, the pixels included.

    With the Inception backbone the distances are FID (Heusel et al. 2017) and KID (Bińkowski et al. 2018), under these
    names; with another they are fd_NAME and kd_NAME. Precision, recall, density and coverage compare as many samples as
    references, one a caption where there are several. Memory: moments are (D + 1)^2 doubles, the metrics that need
    neighbours or kernels keep all features, N x D floats.
    """

    def __init__(self, backbone: Any, cache_dir: str | Path, metrics: Sequence[str] | None = None):
        metrics = [metrics] if isinstance(metrics, str) else metrics
        unknown = sorted(set(metrics or ()) - set(METRICS))
        if unknown:
            raise UserError(f"metrics: {unknown[0]} is none of {', '.join(METRICS)}")
        has_classes = hasattr(backbone, "logits")
        if metrics and "inception_score" in metrics and not has_classes:
            raise UserError(f"inception_score needs backbone=inception, not {backbone.name}")
        self.backbone = backbone
        self.metrics = set(metrics) if metrics else set(METRICS) - ({"inception_score"} if not has_classes else set())
        self.cache_dir = cache_dir
        self.keeps_rows = bool(self.metrics - {"fd", "inception_score"})
        self._references: tuple[Tensor, Tensor] | None = None  # moments, and features where they are needed

    def prepare(self, study: Study) -> None:
        """Features of the references, the first time or from the cache."""
        self.study = study
        fewest = min(study.num_images, study.num_references)
        if self.metrics & NEIGHBOURS and fewest < 6:
            raise UserError(f"{', '.join(sorted(NEIGHBOURS))} need at least 6 samples and references, not {fewest}")
        if "inception_score" in self.metrics and study.num_images < 10:
            raise UserError(f"inception_score needs at least 10 samples, not num_images={study.num_images}")
        self.backbone = self.backbone.to(study.device)
        if self._references is None:
            if self.keeps_rows:
                rows = cached_features(study, self.backbone, "rows", self.cache_dir, self._reference_rows)
                rows = rows.to(study.device)
                self._references = moments(rows), rows
            else:
                sums = cached_features(study, self.backbone, "moments", self.cache_dir, self._reference_moments)
                self._references = sums, torch.zeros(0)
            if "fd" in self.metrics:  # once for all evaluations of a run
                mean, covariance = mean_and_covariance(self._references[0])
                self._real = mean, covariance, square_root(covariance)
        self._sums = self._zeros()
        if "inception_score" in self.metrics:
            nothing = torch.zeros(0, self.backbone.width, device=study.device)
            self._scores = self._score_sums(nothing, [])
        self._numbers: list[int] = []
        self._rows: list[Tensor] = []

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        features = self.backbone.features(images)
        if "fd" in self.metrics:
            moments(features, self._sums)
        if self.keeps_rows:
            self._numbers += numbers
            self._rows.append(features.cpu())
        if "inception_score" in self.metrics:
            self._scores += self._score_sums(features, numbers)

    def figures(self) -> list[Figure]:
        assert self._references is not None
        reference = self._references[1]
        fake = self._gathered(self._numbers, self._rows) if self.keeps_rows else reference
        found: dict[str, tuple[float, float | None]] = {}
        if "fd" in self.metrics:
            drawn = distributed.add(self._sums, self.study.device)
            mean, covariance, root = self._real
            found["fd"] = frechet_distance(mean, covariance, *mean_and_covariance(drawn), root), None
        if "kd" in self.metrics:
            found["kd"] = kernel_distance(reference, fake)
        equal = self._equal(reference, fake)
        if self.metrics & {"precision", "recall"}:
            precision, recall = precision_recall(*equal)
            found |= {"precision": (precision, None), "recall": (recall, None)}
        if self.metrics & {"density", "coverage"}:
            density, coverage = density_coverage(*equal)
            found |= {"density": (density, None), "coverage": (coverage, None)}
        if "inception_score" in self.metrics:
            found["inception_score"] = inception_score(distributed.add(self._scores, self.study.device))
        return [self._figure(name, *found[name]) for name in METRICS if name in self.metrics]

    def _figure(self, name: str, value: float, std: float | None) -> Figure:
        backbone = self.backbone
        of_inception = {"fd": "fid", "kd": "kid"} if backbone.name == "inception" else {}
        title = of_inception.get(name, name if name == "inception_score" else f"{name}_{backbone.name}")
        title = f"r{title}" if self.study.reconstructs else title  # rFID, as that of a tokenizer is called
        if name in of_inception and backbone.resizer.startswith("clean"):
            title = f"clean_{title}"  # another figure than that of the original graph (Parmar et al. 2022)
        better = "lower" if name in ("fd", "kd") else "higher"
        protocol: dict[str, Any] = {"num_references": self.study.num_references} if name != "inception_score" else {}
        protocol |= dict.fromkeys(("num_images", "num_references"), self.num_equal) if name in NEIGHBOURS else {}
        protocol |= {"backbone": backbone.name, "sha256": backbone.sha256[:12], "resizer": backbone.resizer}
        return self.study.figure(title, value, better, std, **protocol)

    @property
    def num_equal(self) -> int:
        """Of samples and of references, where their balls are compared: as many of both."""
        return min(self.study.num_images, self.study.num_references)

    def _equal(self, reference: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Of references and samples the same number, evenly spread: a ball is the wider the fewer there are in a set,
        so unequal ones are never alike. Of several samples a caption that is the first."""
        if not self.metrics & NEIGHBOURS:
            return reference, fake
        count = self.num_equal
        return reference[spread(len(reference), count)], fake[[-(-i * len(fake) // count) for i in range(count)]]

    def _gathered(self, numbers: list[int], rows: list[Tensor]) -> Tensor:
        own = torch.cat(rows) if rows else torch.zeros(0, self.backbone.width)
        return distributed.gather(own.to(self.study.device), torch.tensor(numbers, device=self.study.device))

    def _reference_moments(self) -> Tensor:
        sums = self._zeros()
        for _, images in self.study.reference_images():
            moments(self.backbone.features(images), sums)
        return distributed.add(sums, self.study.device)

    def _reference_rows(self) -> Tensor:
        numbers, rows = [], []
        for some, images in self.study.reference_images():
            numbers += some
            rows.append(self.backbone.features(images).cpu())
        return self._gathered(numbers, rows).cpu()

    def _score_sums(self, features: Tensor, numbers: Sequence[int]) -> Tensor:
        logits = self.backbone.logits_of(features)
        return score_sums(logits, torch.tensor(numbers, dtype=torch.int64), self.study.num_images)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.backbone.width + 1, self.backbone.width + 1, dtype=torch.float64)
