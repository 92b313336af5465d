"""Descriptions of short prompts by a language model: python -m trainer.enrich 'prompts=[a red disc]'"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError


@dataclass
class Enriching:
    """Keys of conf/enrich.yaml, which explains them."""

    prompts: Any = MISSING
    prompts_file: str | None = None
    source: str | None = None
    model: str = MISSING
    examples: str | None = None
    out: str | None = None


def enrich(cfg: DictConfig) -> None:
    """Prints what becomes of prompts, or writes what becomes of a folder's captions into its metadata.jsonl."""
    from pathlib import Path

    from trainer.sampling.prompts import parse_prompts
    from trainer.text.enrichment import enricher

    if cfg.source and (cfg.prompts or cfg.prompts_file):
        raise UserError(f"data={cfg.source}: its captions take the place of prompts; leave one of them out")
    if cfg.out and not cfg.source:
        raise UserError(f"out={cfg.out}: of data=FOLDER; what is made of prompts is printed")
    make = enricher(cfg.model, cfg.examples)
    if not cfg.source:
        prompts = parse_prompts(cfg.prompts, cfg.prompts_file)
        for prompt, text in zip(prompts, make(prompts), strict=True):
            print(f"{prompt} -> {text}")
        return
    from trainer.sampling.enriching import write

    write(make, Path(cfg.source).expanduser(), cfg.out)


def main() -> None:
    entry(enrich, "enrich", Enriching)


if __name__ == "__main__":
    main()
