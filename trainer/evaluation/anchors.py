"""Between which two values a figure stands: what other real pictures score, and training pictures, captions ignored."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data.build import pictures
from trainer.data.sampler import shuffled
from trainer.evaluation.attributes import Attributes
from trainer.evaluation.diversity import PER_CAPTION, Diversity
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import AT_ONCE, Measure, Study, place, run_each, spread
from trainer.evaluation.text import TextMatch
from trainer.metrics.diversity import pairwise_distance
from trainer.process.progress import say
from trainer.runs.results import Figure

ANCHORED = (Fidelity, Attributes, TextMatch, Diversity)  # the measures that ask nothing of a model but its samples
FEWEST = 10  # pictures on either side


class Pictures:
    """Stands in a study for its sampler: sample i is a picture that is there, numbers[i], whatever its caption."""

    def __init__(self, images: Any, numbers: Sequence[int], study: Study):
        self.images, self.numbers, self.seed, self.device = images, numbers, study.seed, study.device
        self.conditioning = study.sampler.conditioning  # of the protocol that the anchors are of
        self.task = None

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], sources: None = None) -> Tensor:
        pixels = np.stack([self.images[self.numbers[seed - self.seed]] for seed in seeds])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)


def shown(study: Study, images: Any, numbers: Sequence[int]) -> Study:
    """The study with pictures in place of samples."""
    sampler: Any = Pictures(images, numbers, study)
    return replace(study, sampler=sampler)


def with_anchors(
    found: Sequence[Sequence[Figure]],
    study: Study,
    measures: Sequence[Measure],
    train: Any,
    cache_dir: str | Path,
    source: Any = None,
) -> list[Figure]:
    """All figures, with `anchors` where a measure has some: measured once a protocol, and kept beside the references.

    found: the figures of each of `measures`. train: images that the model was trained with. source: of the data; one
    that has `others` can make more real pictures. All ranks call this.
    Reconstructions have none: they are compared with what they are of.
    """
    folder = Path(cache_dir).expanduser() / "anchors"
    known = [{file(figure): read(folder / file(figure)) for some in found for figure in some}]
    if dist.is_initialized():  # it is rank 0 that looks and writes
        dist.broadcast_object_list(known, src=0)
    lacking = [
        (measure, figures)
        for measure, figures in zip(measures, found, strict=True)
        if isinstance(measure, ANCHORED) and not all(known[0][file(figure)] for figure in figures)
    ]
    if lacking and not study.reconstructs:
        if place()[0] == 0:
            say("anchors of these figures: real pictures in place of samples, once")
        made = measured(study, lacking, train, source)
        known[0] |= made
        for name in made if place()[0] == 0 else ():
            write(folder / name, made[name])
    return [replace(figure, anchors=known[0][file(figure)]) for some in found for figure in some]


def measured(
    study: Study, lacking: Sequence[tuple[Measure, Sequence[Figure]]], train: Any, source: Any
) -> dict[str, dict[str, Any]]:
    """`file` of a figure -> its anchors.

    shuffled: training pictures in a random order. real: what such a measure needs; its `pictures` say which.
    A text and its own picture are taken for text match and attributes. Distances take pictures that are no references:
    new held-out ones of a source that makes them, else those that are left over, else one half of the held-out pictures
    against the other. The last, and training pictures, score no better than a perfect generator would, but for chance,
    so the better of the two is given. Diversity is that of pictures of one caption, and of any pictures.
    """
    order = shuffled(study.seed, np.arange(study.num_images), len(train.images)).tolist()
    own = shown(study, study.references.images, study.chosen)
    of_samples = [measure for measure, _ in lacking if not isinstance(measure, Diversity)]
    ignoring = iter(run_each(shown(study, train.images, order), of_samples))
    anchors = {}
    for measure, figures in lacking:
        if isinstance(measure, Diversity):
            real, which = of_one_caption(study, measure)
            others = [distance(measure, train.images, order[:AT_ONCE])] if real else []
        else:
            others = values(next(ignoring))
            if isinstance(measure, Fidelity):
                new = new_ones(study, measure, source)
                real, which = new or left_over(study, measure)
                if not new and (not real or is_better(figures[0], others[0], real[0])):
                    real, which = others, f"{study.num_images} of training"
            else:
                real, which = values(run_each(own, [measure])[0]), f"of the {study.num_images} captions"
        for figure, one, two in zip(figures, real, others):  # noqa: B905 - none where nothing is to be had
            anchors[file(figure)] = {"real": one, "shuffled": two, "pictures": which}
    return anchors


def new_ones(study: Study, measure: Fidelity, source: Any) -> tuple[list[float], str] | None:
    """Values of new held-out pictures, as many as samples, against the same references, and what they are."""
    if study.split != "heldout" or not hasattr(source, "others"):
        return None
    made = pictures(source.others(study.num_images), study.references.images.shape[1:3])
    (found,) = run_each(shown(study, made, range(study.num_images)), [fresh(measure)])
    return values(found), f"{study.num_images} new ones"


def of_one_caption(study: Study, measure: Diversity) -> tuple[list[float], str]:
    """The diversity of held-out pictures that share a caption, and of how many captions; none where none do."""
    sharing = defaultdict(list)
    for number, caption in enumerate(study.references.captions):
        sharing[caption].append(number)
    several = [numbers[:PER_CAPTION] for numbers in sharing.values() if len(numbers) > 1]
    if not several:
        return [], ""
    distances = [distance(measure, study.references.images, numbers) for numbers in several]
    return [sum(distances) / len(distances)], f"of {len(several)} captions of {study.split} that have several"


def distance(measure: Diversity, images: Any, numbers: Sequence[int]) -> float:
    pixels = torch.from_numpy(np.stack([images[i] for i in numbers])).permute(0, 3, 1, 2)
    return pairwise_distance(measure.backbone.features(pixels.to(measure.study.device))).item()


def fresh(measure: Fidelity) -> Fidelity:
    return Fidelity(measure.backbone, measure.cache_dir, sorted(measure.metrics))


def left_over(study: Study, measure: Fidelity) -> tuple[list[float], str]:
    """Values of pictures of the split that are no references, and which; none where there are too few."""
    available = len(study.references.captions)
    num_images, num_references = study.num_images, study.num_references
    if available - num_references < num_images:
        num_references = min(num_references, available // 2)
        num_images = min(num_images, available - num_references)
    if min(num_images, num_references) < FEWEST:
        return [], ""
    study = replace(study, num_references=num_references, num_images=num_images)
    rest = sorted({*range(available)} - {*study.reference_index})
    numbers = [rest[i] for i in spread(len(rest), study.num_images)]
    others = shown(study, study.references.images, numbers)
    (found,) = run_each(others, [fresh(measure)])
    return values(found), f"{study.num_images} of {study.split} beside {study.num_references} references"


def values(figures: Sequence[Figure]) -> list[float]:
    return [figure.value for figure in figures]


def is_better(figure: Figure, one: float, other: float) -> bool:
    return one < other if figure.better == "lower" else one > other


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
