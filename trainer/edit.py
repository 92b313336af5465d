"""A picture changed by words: python -m trainer.edit checkpoint=RUN source=photo.png caption=TEXT prompt=TEXT"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError

HOW = ("optimizer", "directions")


@dataclass
class Editing:
    """Keys of conf/edit.yaml, which explains them."""

    checkpoint: str = MISSING
    source: str = MISSING
    prompt: str = MISSING
    caption: str | None = None
    captioning: str | None = None
    matcher: str | None = None
    clip: str | None = None
    how: str = "optimizer"
    strength: float = 1.0
    identity: float = 1.0
    perceptual: bool = True
    seed: int = 0
    out: str | None = None
    device: str | None = None
    allow: Any = None


def edit(cfg: DictConfig) -> None:
    """Writes the picture, its inversion, the edit and a strip of strengths, with their origin in the metadata."""
    if not cfg.prompt.strip():
        raise UserError("prompt: expected what the picture shall show, as in prompt='a blue star'")
    for key in ("strength", "identity"):
        if not 0 <= cfg[key] < math.inf:
            raise UserError(f"{key}={cfg[key]}: expected a number from 0")
    if cfg.how not in HOW:
        raise UserError(f"how={cfg.how}: expected {' or '.join(HOW)}")
    if cfg.how == "directions" and not (cfg.matcher or cfg.clip):
        raise UserError("how=directions: words have them in the space of a judge of pictures: matcher=RUN, or clip=ID")
    for one, other in (("caption", "captioning"), ("matcher", "clip")):
        if cfg[one] and cfg[other]:
            raise UserError(f"{one}={cfg[one]} {other}={cfg[other]}: leave one of them out")

    from pathlib import Path

    from trainer.editing import photos
    from trainer.runs import run_folder
    from trainer.sampling import describing, sources
    from trainer.sampling.pipeline import load
    from trainer.sampling.prompts import slug

    source = Path(cfg.source).expanduser()
    if source.is_dir():
        raise UserError(f"source={cfg.source}: a folder; give one picture")
    sources.files(source)
    pipe = load(cfg.checkpoint, cfg.device)
    caption = (cfg.caption or "").strip()
    if cfg.captioning:
        captioner = load(cfg.captioning, cfg.device)
        ((_, written),) = describing.described(captioner, [source], describing.Writing(), alone=True)
        caption = written[0].text if written else ""
        print(f"caption: {caption}")
    judge = photos.judge_of(cfg.matcher, cfg.clip, pipe.sampler.device)
    if not (caption or judge or getattr(pipe.text, "wordless", False)):
        raise UserError(
            "caption: the generator is told what the picture shows: say caption='a red star', or captioning=RUN of "
            "+experiment=captioning, or matcher=RUN, which takes the nearest caption of the data"
        )
    found = photos.edited(
        pipe, source, caption, cfg.prompt, judge, cfg.strength, cfg.identity, cfg.seed, cfg.perceptual, cfg.how
    )
    folder = cfg.out or run_folder.of(pipe.path) / "edits" / f"{slug(source.stem)}_{slug(cfg.prompt)}"
    origin = {
        "Software": "trainer",
        "experiment": str(pipe.config.get("name")),
        "checkpoint": f"{run_folder.of(pipe.path.resolve()).name}/{pipe.path.name}",  # no paths: pictures travel
        "source": source.name,
        **{key: str(cfg[key]) for key in ("prompt", "strength", "identity", "seed")},
        "caption": found.caption,
        "judge": Path(cfg.matcher or cfg.clip or "none").name,
        "how": cfg.how if judge else "caption",
    }
    photos.write(found, cfg.prompt, Path(folder).expanduser(), origin)


def main() -> None:
    entry(edit, "edit", Editing)


if __name__ == "__main__":
    main()
