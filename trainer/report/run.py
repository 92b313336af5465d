"""What a run folder knows of its run, read without torch."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trainer.errors import UserError
from trainer.runs import checkpoint_files, results, run_folder

END = "end.json"  # of a run: state, reason, traceback, time
STATES = ("finished", "stopped", "failed", "unfinished")
UNKNOWN = "still running, or killed before it could say why"


@dataclass
class Run:
    """A run folder. UserError if `folder` is none. Whatever else is missing in it is empty here."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "config.yaml").is_file():
            raise UserError(
                f"{self.folder}: expected the folder of a run (with config.yaml in it), as outputs/NAME/TIME"
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        loaded: Any = OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"))
        return loaded

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.folder.name))

    @cached_property
    def panel(self) -> dict[str, str]:
        """Rows of the table in RUN/README.md."""
        rows = re.findall(r"^\| (.+?) \| (.*) \|$", self._text("README.md"), re.MULTILINE)
        return dict(reversed(rows))  # the first of equal keys

    @cached_property
    def starts(self) -> list[dict[str, str]]:
        """Of each start, the oldest first: time, command, folder, commit, machine, python, packages."""
        blocks = [block.splitlines() for block in self._text("environment.txt").split("\n\n") if block.strip()]
        pairs = ([(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in b[1:])] for b in blocks)
        return [{"time": block[0], **dict(pair)} for block, pair in zip(blocks, pairs, strict=True)]

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """As of the function, of this run's metrics."""
        return curves(self.folder / "metrics.csv")

    def finite(self, key: str) -> list[tuple[float, float]]:
        return [point for point in self.curves.get(key, []) if math.isfinite(point[1])]

    @property
    def kimg(self) -> float:
        """Thousand images seen when the last metric was written, or the last samples were drawn."""
        return max([points[-1][0] for points in self.curves.values()] + [kimg for kimg, _ in self.grids], default=0.0)

    @cached_property
    def figures(self) -> list[results.Figure]:
        """Those of metrics.json; UserError where that cannot be read."""
        return results.read(self.folder)

    @cached_property
    def grids(self) -> list[tuple[float, Path]]:
        """(thousand images seen, picture) of the sample grids, the oldest first."""
        paths = checkpoint_files.in_order(self.folder / "samples", ".png")
        return [(checkpoint_files.images_of(path) / 1000, path) for path in paths]

    @cached_property
    def checkpoint(self) -> Path | None:
        return checkpoint_files.newest(self.folder / "checkpoints")

    @cached_property
    def end(self) -> dict[str, str]:
        """state: finished, stopped, failed or unfinished; reason, traceback and time where there are any."""
        try:
            known = {str(key): str(value) for key, value in json.loads(self._text(END)).items()}
            if known["state"] in STATES:
                return known
            return {"state": "unfinished", "reason": f"{END} says state={known['state']:.80}"}
        except (ValueError, AttributeError, KeyError):
            done = self.kimg >= float(self.config.get("kimg") or math.inf)
            return {"state": "finished"} if done else {"state": "unfinished", "reason": UNKNOWN}

    @cached_property
    def quoted(self) -> str:
        """The folder as one writes it in a command."""
        return shlex.quote(str(self.folder))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key -> value as the user set it: before ${} is filled in, and without what says where the run is.

        What was looked up in a table of experiments is the entry, as a table may change where this entry does not.
        """
        path = self.folder / run_folder.COMPOSED
        composed: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else self.config
        leaves = run_folder.flat({key: node for key, node in composed.items() if key not in run_folder.PLACE})
        entries = run_folder.flat(self.config)
        leaves |= {key: entries.get(key, each) for key, each in leaves.items() if str(each).startswith("${by_name:")}
        return {key: value for key, value in leaves.items() if value is not None}

    def _text(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def curves(table: Path) -> dict[str, list[tuple[float, float]]]:
    """Metric -> (thousand images seen, value), the values that are no finite number included; of a metrics.csv."""
    found: dict[str, list[tuple[float, float]]] = {}
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                numbers = {key: number(text) for key, text in row.items() if key}
                kimg = numbers.pop("progress/kimg", None)
                for key, value in numbers.items():
                    if key != "step" and kimg is not None and value is not None:
                        found.setdefault(key, []).append((kimg, value))
    return found


def number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
