"""The probe that reads scenes (data=shapes): one that comes with the package, or is trained once on a machine."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from trainer.data.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, Scene, random_scene
from trainer.data.shapes import Shapes
from trainer.data.source import digest
from trainer.metrics.attributes import Probe, fit, read
from trainer.process.progress import Progress, say
from trainer.size import Resolution, Size

NUM_SCENES, NUM_TESTS, EPOCHS = 16000, 2000, 5
BOX = Path(__file__).with_name("probes")  # of data=shapes_single at 32 and 64 pixels, and of data=shapes
WORDS = {"colour": list(COLOURS), "shape": list(SHAPES), "size": list(SIZES)}  # of an object
# what a probe reads: of each place, the words of what stands there, 0 for nothing; then the background
HEADS = [len(values) + 1 for _ in POSITIONS for values in WORDS.values()] + [len(BACKGROUNDS)]


def scenes_probe(resolution: Resolution, max_objects: int, cache_dir: str | Path) -> tuple[Probe, float]:
    """The probe of scenes of up to `max_objects`, and the share of other scenes that it reads rightly.

    Some come with the package, so that figures of several machines compare; others are trained once on this one. It is
    rank 0 that looks for it or trains it, and all have the same.
    """
    with torch.random.fork_rng():  # its first weights are drawn and thrown away
        probe = Probe(resolution, HEADS).eval()
    found: list[Any] = [None, None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        look = Shapes(num_images=64, max_objects=max_objects).fingerprint()
        name = f"shapes-{max_objects}-{Size.of(resolution)}px-{digest(look, NUM_SCENES, 3)}.safetensors"
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


def train_probe(probe: Probe, resolution: Resolution, max_objects: int) -> tuple[dict[str, Tensor], float]:
    say(f"training the probe that reads scenes of up to {max_objects} objects, once")
    rng = random.Random("probe")
    scenes = [random_scene(rng, max_objects) for _ in range(NUM_SCENES + NUM_TESTS)]
    images = torch.stack([torch.from_numpy(np.array(scene.render(resolution))).permute(2, 0, 1) for scene in scenes])
    labels = torch.tensor([label(scene) for scene in scenes])
    progress = Progress("the probe has trained on", "scenes", EPOCHS * NUM_SCENES)
    fit(probe, images[:NUM_SCENES], labels[:NUM_SCENES], EPOCHS, progress)
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
