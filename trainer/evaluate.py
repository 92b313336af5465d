"""Measures of a trained run: python -m trainer.evaluate checkpoint=RUN"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, ListConfig

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.process import ranks

if TYPE_CHECKING:
    from trainer.runs.results import Figure


@dataclass
class Measuring:
    """Keys of all that measures: conf/evaluate.yaml explains them."""

    checkpoint: str = MISSING
    backbone: Any = MISSING
    data: Any = None
    metrics: Any = None
    num_images: int = MISSING
    num_references: int = MISSING
    split: str = MISSING
    seed: int = 0
    matching: str | None = None
    clip: str | None = None
    lpips: Any = None
    device: str | None = None
    allow: Any = None


@dataclass
class Evaluation(Measuring):
    """Keys of conf/evaluate.yaml."""

    batch_size: int | None = None
    guidance: float | None = None
    source_guidance: float | None = None
    precision: str | None = None
    without: str | None = None
    ema: Any = None
    anchors: bool = True


def evaluate(cfg: DictConfig) -> None:
    """Prints the figures that fit the run and adds them, with their protocol, to RUN/metrics.json."""
    from trainer.evaluation.measures import check_split, lengths
    from trainer.strategies.together import together

    check_split(cfg.split)
    with together(cfg.device) as device:
        from trainer.runs.posthoc import averaged

        found = {}
        for length in [None] if cfg.ema is None else cfg.ema if isinstance(cfg.ema, ListConfig) else [cfg.ema]:
            path = cfg.checkpoint if length is None else averaged(cfg.checkpoint, length)
            found[length] = measure(cfg, path, device)
        if len(found) > 1 and ranks.rank() == 0:
            print(lengths(found))


def measure(cfg: DictConfig, path: str | Path, device: Any) -> list[Figure]:
    """The figures of one checkpoint, printed and kept."""
    from trainer.evaluation.anchors import with_anchors
    from trainer.evaluation.classical import compare
    from trainer.evaluation.measures import check_without, data_of, measures, studies, table
    from trainer.evaluation.protocol import run_each
    from trainer.runs import results, run_folder
    from trainer.sampling.pipeline import load

    settings = {key: cfg[key] for key in ("guidance", "source_guidance", "precision")}
    pipe = load(path, device, cfg.batch_size).conditioned(**settings)
    check_without(cfg.without, pipe)
    folder = run_folder.of(pipe.path)
    results.read(folder)  # a file that cannot be added to is told before the work
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)  # of a model in the box there is none yet
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written, and figures are kept there: measure a copy of the run")
    data = data_of(cfg, pipe)
    study = studies(cfg, pipe, data)(pipe.sampler)
    chosen = measures(cfg, pipe, data)
    figures = run_each(study, chosen)
    if cfg.anchors:
        found = with_anchors(figures, study, chosen, data.train, data.cache_dir, data.source)
    else:
        found = [figure for some in figures for figure in some]
    classical = cfg.anchors and pipe.sampler.task and cfg.without is None
    others, beside = compare(study, found, chosen, data.train.images) if classical else ([], "")
    if ranks.rank() == 0:
        print(table(found), flush=True)  # before anything can go wrong with the disk
        print(beside and f"\n{beside}\n", end="", flush=True)
        found += others
        path = results.add(folder, found)
        print(f"{pipe.path}, {study.kimg:.1f} kimg; captions {found[0].protocol['captions']}; {path}")
    return found


def main() -> None:
    entry(evaluate, "evaluate", Evaluation)


if __name__ == "__main__":
    main()
