"""What sampling of a run costs beside plain PyTorch: python -m trainer.speed checkpoint=RUN"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError


@dataclass
class Speed:
    """Keys of conf/speed.yaml, which explains them."""

    checkpoint: str = MISSING
    batch_sizes: list[int] = field(default_factory=list)
    rounds: int = 9
    compile: bool = False
    device: str | None = None
    allow: Any = None


def speed(cfg: DictConfig) -> None:
    """Prints one line for each way to draw."""
    if cfg.rounds < 1 or any(size < 1 for size in cfg.batch_sizes):
        raise UserError(f"rounds={cfg.rounds} batch_sizes={cfg.batch_sizes}: expected numbers from 1 on")
    from trainer.compression.comparison.sampler import compare, table
    from trainer.sampling.pipeline import load

    pipe = load(cfg.checkpoint, cfg.device)
    print(table(compare(pipe, cfg.batch_sizes, cfg.rounds, cfg.compile)))


def main() -> None:
    entry(speed, "speed", Speed)


if __name__ == "__main__":
    main()
