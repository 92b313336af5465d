"""Experiments in a table: mean and spread over the seeds of each, between two anchors."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from trainer.errors import UserError
from trainer.report import page, table
from trainer.report.run import Run
from trainer.runs import run_folder
from trainer.runs.results import Figure
from trainer.size import Size

METRICS = (  # how their names begin, in the order of the columns
    *("fd_", "fid", "clean_fid", "precision_", "recall_", "attributes_colour", "attributes_shape", "attributes_scene"),
    *("r_precision_", "diversity_"),
)
SHARES = ("attributes_", "r_precision_")  # in percent
ABOUT = ("experiment", "runs", "kimg", "minutes", "images/s", "parameters")
SPEED = "throughput/images_per_second"
MINUTES = "throughput/device_minutes"
ENDS = {"real": "other real pictures", "shuffled": "training pictures, captions ignored"}
Measured = dict[tuple[str, str], Figure]  # (metric, protocol) -> figure of the latest checkpoint


class Table(NamedTuple):
    """title: the data. note: of how many images the columns are."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str

    def html(self) -> str:
        cells = [[escape(cell) for cell in row] for row in self.rows]
        return f'<h4>{escape(self.title)}</h4>{page.table(self.head, cells)}<p class="faint">{escape(self.note)}</p>'

    def text(self) -> str:
        """Markdown, without what a terminal would obey."""
        lines = [[printable(cell) for cell in row] for row in (self.head, *self.rows)]
        return "\n\n".join((printable(self.title), table.markdown(lines[0], lines[1:]), printable(self.note)))


def tables(runs: Sequence[Run]) -> Iterator[Table]:
    """One for each data that some of the runs were measured on."""
    of_data: dict[str, list[Run]] = {}
    for run in runs:
        of_data.setdefault(data_of(run), []).append(run)
    for title, some in of_data.items():
        measured = [newest(run) for run in some]
        columns = choose_columns(measured)
        if columns:
            head = [*ABOUT, *(metric for metric, _ in columns)]
            rows = [
                [label, *about([some[i] for i in members]), *(mean_of(measured, members, c) for c in columns)]
                for label, members in experiments(some).items()
            ]
            blank = [""] * (len(ABOUT) - 1)
            ends = [[name, *blank, *(anchor(measured, c, key) for c in columns)] for key, name in ENDS.items()]
            yield Table(title, head, [each for each in (ends[0], *rows, ends[1]) if any(each[1:])], counts(columns))


def data_of(run: Run) -> str:
    data = run.config.get("data") or {}
    source = {key: value for key, value in (data.get("source") or {}).items() if value is not None and key != "path"}
    name = str(source.pop("_target_", "data")).rpartition(".")[2]
    said = ", ".join(f"{key} {value}" for key, value in source.items())
    size = Size.of(data["resolution"]) if data.get("resolution") else None
    return f"{name} at {size} pixels" + (f", {said}" if said else "")


def newest(run: Run) -> Measured:
    """Nothing where metrics.json cannot be read."""
    try:
        ordered = sorted(run.figures, key=lambda figure: figure.kimg)
    except UserError:  # among the warnings
        return {}
    return {(figure.metric, json.dumps(figure.protocol, sort_keys=True)): figure for figure in ordered}


def choose_columns(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Metrics, each by the protocol that most runs share; of those the one with the most images."""
    uses = Counter(key for each in measured for key in each)
    images = {key: each[key].protocol.get("num_images", 0) for each in measured for key in each}
    best: dict[str, tuple[str, str]] = {}
    for key in sorted(uses, key=lambda key: (uses[key], str(images[key]).zfill(9), key)):
        best[key[0]] = key  # the last one is the best
    return [best[metric] for begin in METRICS for metric in sorted(best) if metric.startswith(begin)]


def counts(columns: Sequence[tuple[str, str]]) -> str:
    """`500 images, 1985 references: fd_effnet, precision_effnet; 2000 images: r_precision_matching`"""
    of_protocol: dict[str, list[str]] = {}
    for metric, protocol in columns:
        known = json.loads(protocol)
        numbers = (f"{known[f'num_{what}']} {what}" for what in ("images", "references") if f"num_{what}" in known)
        of_protocol.setdefault(", ".join(numbers), []).append(metric)
    return "; ".join(f"{numbers}: {', '.join(metrics)}" for numbers, metrics in of_protocol.items())


def experiments(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Name -> its runs by number: those whose settings differ in their seeds alone; with what else tells two apart."""
    groups: dict[str, list[int]] = {}
    settings = [{key: value for key, value in run.settings.items() if not of_start(key)} for run in runs]
    for i, each in enumerate(settings):
        groups.setdefault(json.dumps(each, sort_keys=True, default=str), []).append(i)
    found: dict[str, list[int]] = {}
    for members in groups.values():
        name, own = runs[members[0]].name, settings[members[0]]
        alike = [settings[others[0]] for others in groups.values() if runs[others[0]].name == name]
        differs = [key for key in own if any(key not in each or each[key] != own[key] for each in alike)]
        label = ", ".join([name, *(f"{key}={own[key]}" for key in differs)])
        found[f"{label} ({len(found) + 1})" if label in found else label] = members
    return found


def of_start(key: str) -> bool:
    """Whether a setting is no part of an experiment: the seed, loggers, where caches lie and the like."""
    return key == "seed" or key.startswith("logger.") or key.rpartition(".")[2] in run_folder.FREE_ANYWHERE


def about(runs: Sequence[Run]) -> list[str]:
    """Number of runs, thousand images seen, minutes of devices, images a second in training, parameters."""
    speeds = [statistics.median(v for _, v in points) for run in runs if (points := run.finite(SPEED))]
    parameters = dict.fromkeys(run.panel.get("parameters", "") for run in runs)
    costs = [points[-1][1] for run in runs if (points := run.finite(MINUTES))]
    numbers = [spread([run.kimg for run in runs]), spread(costs), spread(speeds)]
    return [str(len(runs)), *numbers, "; ".join(filter(None, parameters))]


def mean_of(measured: Sequence[Measured], members: Sequence[int], column: tuple[str, str]) -> str:
    """Of a group of runs; how many were measured where not all were."""
    values = [measured[i][column].value for i in members if column in measured[i]]
    lacking = f" of {len(values)}" if 0 < len(values) < len(members) else ""
    return spread(values, percent=column[0].startswith(SHARES)) + lacking or "–"


def anchor(measured: Sequence[Measured], column: tuple[str, str], key: str) -> str:
    found = next((each[column].anchors for each in measured if column in each and each[column].anchors), {})
    return spread([found[key]] if found else [], percent=column[0].startswith(SHARES))


def spread(values: Sequence[float], percent: bool = False) -> str:
    """`mean ± standard deviation` over n - 1 of n values, the mean alone of one, nothing of none."""
    if not values:
        return ""
    scaled = [100 * value for value in values] if percent else list(values)
    std = f" ± {digits(statistics.stdev(scaled), 2)}" if len(scaled) > 1 else ""
    return digits(statistics.fmean(scaled), 4) + std + ("%" if percent else "")


def digits(value: float, count: int) -> str:
    """`count` significant ones, and never an exponent for a large number."""
    return f"{value:.{count}g}" if abs(value) < 10**count else f"{value:.0f}"


def printable(text: str) -> str:
    return "".join(letter if letter.isprintable() and letter != "|" else "?" for letter in text)
