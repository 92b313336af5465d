"""How good the captions are that a model writes of held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from trainer.data.scenes import Scene, Thing
from trainer.evaluation.protocol import AT_ONCE, Study, shares
from trainer.metrics.captions import bleu, cider_d, rouge_l, self_bleu, words
from trainer.process.progress import Progress
from trainer.runs.results import Figure
from trainer.sampling.captions import captions_of


class Captions:
    """CIDEr-D, BLEU-4, ROUGE-L and, of scenes, how often a caption is right in all that it says.

    The captions are those of the references of a study, by beam search. Those of scenes that may be written are the two
    ways to say one object by its place, or those of several (`Scene.captions`). nearest: a backbone and training images
    with captions; each image then also has the caption of the training image next to it in the backbone's features, by
    the cosine: what a model has to beat. Its figures are called METRIC_nearest.
    Of a captioner with a latent each image has `num_captions`, of as many seeds, which all figures are of; and there is
    how much they differ: the share of the distinct ones, and self-BLEU-4.
    written: one caption of each image; behind them another of each, where it has several.
    """

    def __init__(self, beams: int = 4, nearest: tuple[Any, Any] | None = None, num_captions: int = 5):
        self.beams, self.nearest, self.num_captions = beams, nearest, num_captions
        self.written: list[str] = []

    def prepare(self, study: Study) -> None:
        self.study = study

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Nothing is drawn."""

    def figures(self) -> list[Figure]:
        study, objective = self.study, self.study.sampler.objective
        own: dict[int, list[str]] = {}
        count = self.num_captions if objective.captioner.latent_channels else 1
        for numbers in shares(study.num_references, "captions: written", "captions"):
            pixels = study.pixels(study.reference_index[i] for i in numbers)
            seeds = range(study.seed, study.seed + count)
            found = [captions_of(objective, study.sampler.text, pixels, self.beams, seed=seed) for seed in seeds]
            own |= {number: [each.text for each in some] for number, *some in zip(numbers, *found, strict=True)}
        every = [own]
        if dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, own)
            every = parts
        joined = {number: texts for part in every for number, texts in part.items()}
        several = [joined[i] for i in range(study.num_references)]
        self.written = [texts[place] for place in range(count) for texts in several]
        figures = self._figures(self.written, "")
        if count > 1:
            told: dict[str, Any] = {"num_images": len(several), "captions": self._how(count)}
            distinct = float(np.mean([len({*texts}) / count for texts in several]))
            alike = self_bleu([[words(text) for text in texts] for texts in several])
            figures.append(study.figure("distinct_captions", distinct, "higher", **told))
            figures.append(study.figure("self_bleu4", alike, "lower", **told))
        return figures + (self._figures(self._nearest(*self.nearest), "_nearest") if self.nearest else [])

    def _figures(self, written: Sequence[str], suffix: str) -> list[Figure]:
        study = self.study
        every: list[list[str]] = study.references.all_captions  # type: ignore[attr-defined]
        count = len(written) // study.num_references
        references = [[words(each) for each in every[i]] for i in study.reference_index] * count
        sentences = [words(each) for each in written]
        values = {
            "cider_d": float(np.mean(cider_d(sentences, references))),
            "bleu4": bleu(sentences, references),
            "rouge_l": float(np.mean([rouge_l(a, b) for a, b in zip(sentences, references, strict=True)])),
        }
        scenes = [study.references.attributes[i] for i in study.reference_index] * count
        if scenes[0].get("objects"):
            right = [text in said_of(scene) for text, scene in zip(written, scenes, strict=True)]
            values["attributes_caption"] = float(np.mean(right))
        told: dict[str, Any] = {"num_images": study.num_references, "seed": None}
        told["captions"] = self._how(count)
        return [study.figure(f"{name}{suffix}", value, "higher", **told) for name, value in values.items()]

    def _how(self, count: int) -> str:
        return (f"{count} of an image, " if count > 1 else "") + f"by beam search of {self.beams}"

    def _nearest(self, backbone: Any, train: Any) -> list[str]:
        """The caption of the training image that is next to each reference."""
        study = self.study
        backbone = backbone.to(study.device)
        pictures, captions = train.images, train.captions
        progress = Progress("captions: compared", "training images", len(captions))
        own = unit(backbone.features(study.pixels(study.reference_index).to(study.device)))
        best = torch.full((len(own),), -2.0, device=own.device)
        found = torch.zeros(len(own), dtype=torch.int64, device=own.device)
        for start in range(0, len(captions), AT_ONCE):
            some = torch.from_numpy(pictures[start : start + AT_ONCE]).permute(0, 3, 1, 2).to(study.device)
            value, place = (own @ unit(backbone.features(some)).T).max(1)
            nearer = value > best
            best, found = torch.where(nearer, value, best), torch.where(nearer, place + start, found)
            progress(min(start + AT_ONCE, len(captions)))
        return [captions[i] for i in found.tolist()]


def unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)


def said_of(attributes: dict[str, Any]) -> set[str]:
    """All ways to say a scene, in the letters and spaces of a tokenizer of words in lower case."""
    scene = Scene(attributes["background"], tuple(Thing(**each) for each in attributes["objects"]))
    return {each.replace(",", " ,") for each in scene.captions()} | {*scene.captions()}
