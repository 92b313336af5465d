"""Between which two values a figure stands: what other real pictures score, and training pictures, captions ignored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data.sampler import shuffled
from trainer.evaluation.attributes import Attributes
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import Measure, Study, place, run_each, spread
from trainer.evaluation.text import TextMatch
from trainer.process.progress import say
from trainer.runs.results import Figure

ANCHORED = (Fidelity, Attributes, TextMatch)  # the measures that ask nothing of a model but its samples
FEWEST = 10  # pictures on either side


class Pictures:
    """Stands in a study for its sampler: sample i is a picture that is there, numbers[i], whatever its caption."""

    def __init__(self, images: Any, numbers: Sequence[int], study: Study):
        self.images, self.numbers, self.seed, self.device = images, numbers, study.seed, study.device
        self.conditioning = study.sampler.conditioning  # of the protocol that the anchors are of

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        pixels = np.stack([self.images[self.numbers[seed - self.seed]] for seed in seeds])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


def shown(study: Study, images: Any, numbers: Sequence[int]) -> Study:
    """The study with pictures in place of samples."""
    sampler: Any = Pictures(images, numbers, study)
    return replace(study, sampler=sampler)


def with_anchors(
    found: Sequence[Sequence[Figure]], study: Study, measures: Sequence[Measure], train: Any, cache_dir: str | Path
) -> list[Figure]:
    """All figures, with `anchors` where a measure has some: measured once a protocol, and kept beside the references.

    found: the figures of each of `measures`. train: images that the model was trained with. All ranks call this.
    Reconstructions have none: they are compared with what they are of.
    """
    folder = Path(cache_dir).expanduser() / "anchors"
    known = [{file(figure): read(folder / file(figure)) for some in found for figure in some}]
    if dist.is_initialized():  # it is rank 0 that looks and writes
        dist.broadcast_object_list(known, src=0)
    lacking = [
        measure
        for measure, figures in zip(measures, found, strict=True)
        if isinstance(measure, ANCHORED) and not all(known[0][file(figure)] for figure in figures)
    ]
    if lacking and not study.reconstructs:
        if place()[0] == 0:
            say("anchors of these figures: real pictures in place of samples, once")
        made = measured(study, lacking, train)
        known[0] |= made
        for name in made if place()[0] == 0 else ():
            write(folder / name, made[name])
    return [replace(figure, anchors=known[0][file(figure)]) for some in found for figure in some]


def measured(study: Study, measures: Sequence[Measure], train: Any) -> dict[str, dict[str, Any]]:
    """`file` of a figure -> its anchors.

    shuffled: training pictures in a random order. real: what such a measure needs; its `pictures` say which.
    A text and its own picture are taken for text match and attributes. Distances take pictures that are no references:
    held-out ones that are left over, else one half of the held-out pictures against the other. Both this and training
    pictures score no better than a perfect generator would, but for chance, so the better of the two is given.
    """
    order = shuffled(study.seed, np.arange(study.num_images), len(train.images)).tolist()
    ignoring = run_each(shown(study, train.images, order), measures)
    own = shown(study, study.references.images, study.chosen)
    anchors = {}
    for measure, others in zip(measures, ignoring, strict=True):
        if isinstance(measure, Fidelity):
            real, pictures = left_over(study, measure)
            if not real or better(others[0], real[0]):
                real, pictures = others, f"{study.num_images} of training"
        else:
            (real,), pictures = run_each(own, [measure]), f"of the {study.num_images} captions"
        for one, two in zip(real, others, strict=True):
            anchors[file(two)] = {"real": one.value, "shuffled": two.value, "pictures": pictures}
    return anchors


def left_over(study: Study, measure: Fidelity) -> tuple[list[Figure], str]:
    """Figures of pictures of the split that are no references, and which; none where there are too few."""
    available = len(study.references.captions)
    if available - study.num_references < study.num_images:
        num_references = min(study.num_references, available // 2)
        study = replace(
            study, num_references=num_references, num_images=min(study.num_images, available - num_references)
        )
    if min(study.num_images, study.num_references) < FEWEST:
        return [], ""
    rest = sorted({*range(available)} - {*study.reference_index})
    numbers = [rest[i] for i in spread(len(rest), study.num_images)]
    others = shown(study, study.references.images, numbers)
    (found,) = run_each(others, [Fidelity(measure.backbone, measure.cache_dir, sorted(measure.metrics))])
    return found, f"{study.num_images} of {study.split} beside {study.num_references} references"


def better(figure: Figure, other: Figure) -> bool:
    return figure.value < other.value if figure.better == "lower" else figure.value > other.value


# Kept between evaluations ---------------------------------------------------------------------------------------------


def file(figure: Figure) -> str:
    """Named after all that its anchors depend on."""
    protocol = json.dumps(figure.protocol, sort_keys=True)
    return f"{figure.metric}-{hashlib.sha256(protocol.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):  # there is none, or none that is whole
        return {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; without it the next evaluation measures again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        say(f"{path}: {error.strerror}; the anchors are not kept")
