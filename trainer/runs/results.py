"""Figures that say how they were made, and are compared only where they were made the same way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.process.locks import acquire

FILE = "metrics.json"


@dataclass(frozen=True)
class Figure:
    """One measured value.

    metric: its name, as `fid`. better: "lower" or "higher". std: over parts of the images, where the metric has parts.
    checkpoint, kimg: what was measured, thousand images into its training.
    protocol: all that the value depends on besides the model: backbone and its sha256, num_images, num_references,
    split, captions (policy), resizer, seed, data (fingerprint).
    anchors: where they were measured, `real` and `shuffled`, what other real pictures score in the model's place, and
    what training pictures do, captions ignored; `pictures`: which the real ones are.
    """

    metric: str
    value: float
    better: str
    checkpoint: str
    kimg: float
    protocol: dict[str, Any] = field(default_factory=dict)
    std: float | None = None
    anchors: dict[str, Any] = field(default_factory=dict)


def difference(figure: Figure, other: Figure) -> float:
    """figure.value - other.value; UserError where the two do not compare, with what differs."""
    if figure.metric != other.metric:
        raise UserError(f"{figure.metric} and {other.metric} are different metrics: they do not compare")
    for key in sorted(figure.protocol.keys() | other.protocol.keys()):
        one, two = figure.protocol.get(key), other.protocol.get(key)
        if one != two:
            raise UserError(
                f"{figure.metric}: one has {key}={one}, the other {two}; figures of different protocols do not "
                f"compare: measure both by the same trainer.evaluate command"
            )
    return figure.value - other.value


def read(run: str | Path) -> list[Figure]:
    """The figures of a run folder, none where it was never measured. UserError if RUN/metrics.json is damaged."""
    path = Path(run, FILE)
    if not path.is_file():  # nor a pipe, which would never end
        return []
    try:
        return [_checked(Figure(**each)) for each in json.loads(path.read_text(encoding="utf-8"))["figures"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and measure again with trainer.evaluate") from error


def add(run: str | Path, figures: Iterable[Figure]) -> Path:
    """Writes figures into RUN/metrics.json in place of those of the same metric, checkpoint and protocol; its path."""
    path = Path(run, FILE)
    with open(path.with_name(f".{FILE}.lock"), "w") as lock:  # two evaluations of a run may end at once
        acquire(lock)
        kept = {_key(figure): figure for figure in [*read(run), *figures]}
        temporary = path.with_name(f".{FILE}.{os.getpid()}.tmp")  # where there are no locks, each has its own
        temporary.write_text(json.dumps({"figures": [asdict(each) for each in kept.values()]}, indent=2) + "\n")
        os.replace(temporary, path)
    return path


def _checked(figure: Figure) -> Figure:
    """ValueError unless every field is of its kind."""
    ends = [dict(figure.anchors)[name] for name in ("real", "shuffled") if figure.anchors]
    numbers = (figure.value, figure.kimg, 0 if figure.std is None else figure.std, *ends)
    texts = (figure.metric, figure.checkpoint)
    if not all(isinstance(each, int | float) for each in numbers) or not all(isinstance(each, str) for each in texts):
        raise ValueError("a number or a text is of another kind")
    if figure.better not in ("lower", "higher") or not isinstance(figure.protocol, dict):
        raise ValueError(f"better={figure.better!r:.40}")
    return figure


def _key(figure: Figure) -> str:
    return json.dumps([figure.metric, figure.checkpoint, figure.protocol], sort_keys=True)
