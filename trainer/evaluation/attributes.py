"""Whether samples show the scene that their caption tells of (data=shapes), read by a probe."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trainer.data.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, Scene, Thing, random_scene, relation
from trainer.data.shapes import Shapes
from trainer.data.source import digest
from trainer.evaluation.protocol import Study, place
from trainer.metrics import distributed
from trainer.metrics.attributes import Probe, fit, read
from trainer.process.progress import say
from trainer.runs.results import Figure

NUM_SCENES, NUM_TESTS = 16000, 2000
BOX = Path(__file__).with_name("probes")  # of data=shapes_single at 32 and 64 pixels, and of data=shapes
WORDS = {"colour": list(COLOURS), "shape": list(SHAPES), "size": list(SIZES)}  # of an object
# what a probe reads: of each place, the words of what stands there, 0 for nothing; then the background
HEADS = [len(values) + 1 for _ in POSITIONS for values in WORDS.values()] + [len(BACKGROUNDS)]
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
    probe, on_real = scenes_probe(study.references.images.shape[1], max_objects, cache_dir)
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


def scenes_probe(resolution: int, max_objects: int, cache_dir: str | Path) -> tuple[Probe, float]:
    """The probe of scenes of up to `max_objects`, and the share of other scenes that it reads rightly.

    Some come with the package, so that figures of several machines compare; others are trained once on this one. It is
    rank 0 that looks for it or trains it, and all have the same.
    """
    with torch.random.fork_rng():  # its first weights are drawn and thrown away
        probe = Probe(resolution, HEADS).eval()
    found: list[Any] = [None, None]
    if place()[0] == 0:
        look = Shapes(num_images=64, max_objects=max_objects).fingerprint()
        name = f"shapes-{max_objects}-{resolution}px-{digest(look, NUM_SCENES, 3)}.safetensors"
        path = Path(cache_dir).expanduser() / "probes" / name
        try:
            found = [*kept(BOX / name if (BOX / name).exists() else path)]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # there is none that is whole
            found = [*train_probe(probe, resolution, max_objects)]
            keep(path, *found)
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    probe.load_state_dict(found[0])
    return probe, found[1]


def train_probe(probe: Probe, resolution: int, max_objects: int) -> tuple[dict[str, Tensor], float]:
    say(f"training the probe that reads scenes of up to {max_objects} objects: once, a minute or two")
    rng = random.Random("probe")
    scenes = [random_scene(rng, max_objects) for _ in range(NUM_SCENES + NUM_TESTS)]
    images = torch.stack([torch.from_numpy(np.array(scene.render(resolution))).permute(2, 0, 1) for scene in scenes])
    labels = torch.tensor([label(scene) for scene in scenes])
    fit(probe, images[:NUM_SCENES], labels[:NUM_SCENES], report=lambda n, loss: say(f"  epoch {n}, loss {loss:.3f}"))
    for tensor in (each for each in probe.state_dict().values() if each.is_floating_point()):
        tensor.copy_(tensor.half())  # as it is kept
    right = (read(probe, images[NUM_SCENES:]) == labels[NUM_SCENES:]).all(1).double().mean().item()
    return probe.state_dict(), right


def kept(path: Path) -> tuple[dict[str, Tensor], float]:
    """What `keep` wrote."""
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        accuracy = float(file.metadata()["accuracy"])
    return {name: each.float() if each.is_floating_point() else each for name, each in state.items()}, accuracy


def keep(path: Path, state: dict[str, Tensor], accuracy: float) -> None:
    """Whole or not at all; in a read-only cache the next evaluation trains it again."""
    halves = {name: (each.half() if each.is_floating_point() else each).contiguous() for name, each in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(halves, {"accuracy": repr(accuracy)}))  # save_file: for this user alone
        os.replace(temporary, path)
    except OSError as error:
        say(f"{path}: {error}; the probe is not kept")


def label(scene: Scene) -> list[int]:
    """The numbers of `HEADS` for a scene."""
    standing = {thing.position: thing for thing in scene.things}
    numbers = [
        names.index(getattr(standing[position], word)) + 1 if position in standing else 0
        for position in POSITIONS
        for word, names in WORDS.items()
    ]
    return [*numbers, list(BACKGROUNDS).index(scene.background)]
