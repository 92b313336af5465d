"""Measures of a trained run: python -m trainer.evaluate checkpoint=RUN"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from trainer.config import entry
from trainer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.shapes import Scene
    from trainer.metrics.attributes import Probe

NUM_PROBE_IMAGES, NUM_PROBE_TESTS = 16000, 2000


@dataclass
class Evaluation:
    """Keys of conf/evaluate.yaml, which explains them."""

    checkpoint: str = MISSING
    num_images: int = MISSING
    device: str | None = None


def evaluate(cfg: DictConfig) -> None:
    """Prints the measures that fit the run's data and adds them to RUN/metrics.json."""
    from hydra.utils import instantiate

    from trainer.pipeline import load

    pipe = load(cfg.checkpoint, cfg.device)
    data = instantiate(pipe.config["data"], text=pipe.text, _convert_="all")
    data.prepare()
    if not any(len(known.get("objects", ())) == 1 for known in data.heldout.attributes):
        raise UserError(
            f"{cfg.checkpoint}: the held-out images of its data ({type(data.source).__name__}) have no attributes that "
            "a probe could read; train on data=shapes with data.source.max_objects=1 for that"
        )
    found = attribute_accuracy(pipe.sampler, data, cfg.num_images)
    run = pipe.path.parent.parent if pipe.path.parent.name == "checkpoints" else pipe.path.parent
    path = run / "metrics.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {"attributes": found | {"checkpoint": pipe.path.name}}, indent=2) + "\n")
    print(f"{'':12} {'samples':>8} {'probe on real scenes':>21}")
    for name, value in found["accuracy"].items():
        print(f"{name:12} {value:8.2%} {found['probe'][name]:21.2%}")
    print(f"{found['num_images']} samples of {found['num_captions']} held-out captions, seeds from 0; {path}")


def attribute_accuracy(sampler: Any, data: Any, num_images: int) -> dict[str, Any]:
    """Share of samples for held-out captions of one object in which a probe reads what the caption says."""
    import torch

    from trainer.metrics.attributes import accuracy
    from trainer.progress import Progress

    pairs = zip(data.heldout.captions, data.heldout.attributes, strict=True)
    wanted = {caption: known for caption, known in pairs if len(known["objects"]) == 1}
    captions = (list(wanted) * (num_images // len(wanted) + 1))[:num_images]
    labels = torch.tensor([label(wanted[caption]) for caption in captions])
    probe, on_real = shapes_probe(data.resolution, data.cache_dir)
    images, progress = [], Progress("sampled", "images", num_images)
    for start in range(0, num_images, 64):
        part = captions[start : start + 64]
        images.append(sampler(part, range(start, start + len(part))).cpu())
        progress(start + len(part))
    shares = accuracy(probe, torch.cat(images), labels)
    return {
        "accuracy": dict(zip(vocabulary(), shares.tolist(), strict=True)),
        "probe": dict(zip(vocabulary(), on_real.tolist(), strict=True)),
        "num_images": num_images,
        "num_captions": min(len(wanted), num_images),
    }


def vocabulary() -> dict[str, list[str]]:
    from trainer.data.shapes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES

    every: dict[str, Any] = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": POSITIONS}
    every["background"] = BACKGROUNDS
    return {name: list(values) for name, values in every.items()}


def label(known: dict[str, Any]) -> list[int]:
    """Numbers of the values in `vocabulary()`, for the attributes of a scene of one object."""
    (thing,) = known["objects"]
    words = thing | {"background": known["background"]}
    return [values.index(words[name]) for name, values in vocabulary().items()]


def shapes_probe(resolution: int, cache_dir: str | Path) -> tuple[Probe, Tensor]:
    """The probe for scenes of one object, trained once, and its accuracy on 2,000 real scenes it has not seen."""
    import torch

    from trainer.data.shapes import Shapes, random_scene
    from trainer.data.source import digest
    from trainer.metrics.attributes import Probe, accuracy, fit

    probe = Probe(resolution, [len(values) for values in vocabulary().values()])
    path = Path(cache_dir, f"probe-shapes-{resolution}px-{digest(Shapes(max_objects=1).fingerprint(), 1)}.pt")
    if path.exists():
        saved = torch.load(path, weights_only=True)
        probe.load_state_dict(saved["probe"])
        return probe.eval(), saved["accuracy"]
    print("training the probe that reads scenes (once, about a minute)", file=sys.stderr, flush=True)
    rng = random.Random("probe")
    scenes = [random_scene(rng, max_objects=1) for _ in range(NUM_PROBE_IMAGES + NUM_PROBE_TESTS)]
    images = torch.stack([pixels(scene, resolution) for scene in scenes])
    labels = torch.tensor([label(scene.attributes()) for scene in scenes])
    seen, unseen = slice(NUM_PROBE_IMAGES), slice(NUM_PROBE_IMAGES, None)
    fit(probe, images[seen], labels[seen], report=lambda n, loss: print(f"  epoch {n}, {loss:.3f}", file=sys.stderr))
    on_real = accuracy(probe, images[unseen], labels[unseen])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"probe": probe.state_dict(), "accuracy": on_real}, path)
    return probe, on_real


def pixels(scene: Scene, resolution: int) -> Tensor:
    """(3, H, W) uint8."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(scene.render(resolution))).permute(2, 0, 1)


def main() -> None:
    entry(evaluate, "evaluate", Evaluation)


if __name__ == "__main__":
    main()
