"""Scenes as a folder of pictures of which one in N has a caption, and what generators that learned from it draw.

    python docs/make/machine_captions.py write FOLDER 2     pictures, metadata.jsonl of one in 2, all.jsonl of all
    python docs/make/machine_captions.py measure RUN ...    on held-out scenes, of which the folder has none

docs/tasks.md has the trainings between the two.
"""

import json
import sys
from pathlib import Path

from trainer.backbones import effnet_lite
from trainer.data.augment import Augment
from trainer.data.module import DataModule, default_cache_dir
from trainer.data.shapes import Shapes
from trainer.evaluation.attributes import Attributes
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import Study, run
from trainer.sampling.pipeline import load

RESOLUTION = 32
SCENES = Shapes(max_objects=1)


def write(folder: Path, one_in: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, item in enumerate(SCENES.items()):
        if not item.heldout:
            name = f"{number:05d}.png"
            item.load(RESOLUTION).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": item.captions[0]}) + "\n")
    (folder / "all.jsonl").write_text("".join(lines))
    (folder / "metadata.jsonl").write_text("".join(lines[::one_in]))
    print(f"{len(lines)} pictures in {folder}, {len(lines[::one_in])} of them with a caption in metadata.jsonl")


def measure(given: str) -> None:
    pipe = load(given, "cpu")
    data = DataModule(SCENES, pipe.text, RESOLUTION, 32, 0.0, Augment(), seed=0)
    data.prepare()
    study = Study(
        sampler=pipe.sampler, references=data.heldout, split="heldout", num_images=2000, num_references=5000,
        data=data.fingerprint, checkpoint=pipe.path.name, kimg=pipe.objective.images_seen / 1000,
    )  # fmt: skip
    cache = default_cache_dir()
    found = run(study, [Attributes(1, cache), Fidelity(effnet_lite.load(variant=2), cache, ["fd"])])
    print(given, "  ".join(f"{figure.metric} {figure.value:.4g}" for figure in found), flush=True)


if sys.argv[1] == "write":
    write(Path(sys.argv[2]), int(sys.argv[3]))
else:
    for given in sys.argv[2:]:
        measure(given)
