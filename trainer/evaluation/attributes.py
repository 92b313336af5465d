"""Whether samples show the scene that their caption tells of (data=shapes), read by a probe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.data.scenes import BACKGROUNDS, POSITIONS, Thing, relation
from trainer.data.source import digest
from trainer.evaluation.protocol import Study
from trainer.metrics import distributed
from trainer.metrics.attributes import Probe, read
from trainer.runs.results import Figure
from trainer.runs.scenes_probe import WORDS, scenes_probe

NAMES = ("colour", "shape", "size", "position", "relation", "background", "count", "scene")


class Attributes:
    """Share of samples, or of objects in them, that are as the caption says.

    colour, shape, size: of the objects that the caption names; position: of a lone object; relation: of the first
    object to each other one; background, count: of images; scene: images in which all of these are right. Objects that
    are read are given to those of the caption so that as many words as possible fit. The probe is a convolutional
    network trained on 16,000 scenes, and its own accuracy on 2,000 others is part of the figure's protocol.
    """

    def __init__(self, max_objects: int, cache_dir: str | Path):
        self.max_objects, self.cache_dir = max_objects, cache_dir

    def prepare(self, study: Study) -> None:
        self.study = study
        self.probe, self.protocol = probe_of(study, self.max_objects, self.cache_dir)
        self.wanted = study.references.attributes
        self._sums = torch.zeros(2, len(NAMES), dtype=torch.float64)

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        for number, values in zip(numbers, read(self.probe, images.cpu()).tolist(), strict=True):
            self._sums += score_scene(self.wanted[self.study.chosen[number]], *scene_of(values))

    def figures(self) -> list[Figure]:
        right, asked = distributed.add(self._sums, self.study.device).tolist()
        return [
            self.study.figure(f"attributes_{name}", right[i] / asked[i], "higher", **self.protocol)
            for i, name in enumerate(NAMES)
            if asked[i]
        ]


class OwnScenes:
    """Part of a measure that draws scenes of its own and has the probe read them."""

    def __init__(self, max_objects: int, cache_dir: str | Path):
        self.max_objects, self.cache_dir = max_objects, cache_dir

    def prepare(self, study: Study) -> None:
        self.study = study
        self.probe, self.protocol = probe_of(study, self.max_objects, self.cache_dir)

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Draws its own samples."""


def probe_of(study: Study, max_objects: int, cache_dir: str | Path) -> tuple[Probe, dict[str, Any]]:
    """The probe for images of a study, and what a figure says of it."""
    probe, on_real = scenes_probe(study.references.images.shape[1:3], max_objects, cache_dir)
    weights = digest(*(value.contiguous().numpy().tobytes() for value in probe.state_dict().values()))
    return probe, {"probe": weights, "probe_accuracy": on_real}


def scene_of(values: Sequence[int]) -> tuple[list[Thing], str]:
    """Objects and background that the probe has read: the numbers of `HEADS`."""
    things = []
    for row, position in enumerate(POSITIONS):
        numbers = values[row * len(WORDS) : (row + 1) * len(WORDS)]
        if numbers[0]:  # that something stands there is what the colour says
            colour, shape, size = (
                names[max(number - 1, 0)] for names, number in zip(WORDS.values(), numbers, strict=True)
            )
            things.append(Thing(colour, shape, size, position))
    return things, list(BACKGROUNDS)[values[-1]]


def score_scene(wanted: dict[str, Any], things: list[Thing], background: str) -> Tensor:
    """(2, 8): for each of NAMES how much is right, and how much was asked."""
    objects = [Thing(**words) for words in wanted["objects"]]
    padded: list[Thing | None] = [*things, *[None] * max(0, len(objects) - len(things))]

    def score(given: Sequence[Thing | None]) -> tuple[list[int], int]:
        pairs = list(zip(objects, given, strict=True))
        right = [sum(g is not None and getattr(o, name) == getattr(g, name) for o, g in pairs) for name in WORDS]
        right.append(int(len(objects) == 1 and given[0] is not None and objects[0].position == given[0].position))
        first, *others = given
        right.append(sum(
            first is not None and g is not None and relation(first, g) == relation(objects[0], o)
            for o, g in zip(objects[1:], others, strict=True)
        ))  # fmt: skip
        return right, sum(right)

    best = max((score(given)[0] for given in permutations(padded, len(objects))), key=sum)
    count = len(objects)
    asked = [count, count, count, int(count == 1), count - 1, 1, 1]
    right = [*best, int(background == wanted["background"]), int(len(things) == count)]
    return torch.tensor([[*right, int(right == asked)], [*asked, 1]], dtype=torch.float64)
