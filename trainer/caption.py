"""Captions of pictures that have none: python -m trainer.caption checkpoint=RUN data=FOLDER"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError


@dataclass
class Captioner:
    """Keys of conf/caption.yaml, which explains them."""

    checkpoint: str = MISSING
    source: str = MISSING
    beams: int = 4
    out: str | None = None
    batch_size: int = 64
    num_captions: int = 1
    seed: int = 0
    device: str | None = None
    allow: Any = None


def caption(cfg: DictConfig) -> None:
    """Prints captions of a picture, or writes those of a folder into its metadata.jsonl."""
    if min(cfg.beams, cfg.batch_size, cfg.num_captions) < 1:
        given = f"beams={cfg.beams} batch_size={cfg.batch_size} num_captions={cfg.num_captions}"
        raise UserError(f"{given}: expected numbers from 1 on")
    from pathlib import Path

    from trainer.sampling import describing
    from trainer.sampling.pipeline import load

    source = Path(cfg.source).expanduser()
    if not source.exists():
        raise UserError(f"source={cfg.source}: no such file or folder; give a picture, or a folder of them")
    how = describing.Writing(cfg.beams, cfg.batch_size, cfg.num_captions, cfg.seed)
    pipe = load(cfg.checkpoint, cfg.device)
    if source.is_file():
        ((_, found),) = describing.described(pipe, [source], how, alone=True)
        for each in found:
            print(f"{each.text}\nmean log probability a piece: {each.score:.3f}")
        if not found:
            print("the model has no words for it")
        return
    describing.write(pipe, source, cfg.out, how)


def main() -> None:
    entry(caption, "caption", Captioner)


if __name__ == "__main__":
    main()
