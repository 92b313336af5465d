"""Several runs on one page: what differs in their settings, and in what came out."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.report import page
from trainer.report.curves import curve_groups
from trainer.report.experiments import newest, tables
from trainer.report.run import Run
from trainer.report.single import protocol, value
from trainer.report.warnings import warnings
from trainer.runs.results import Figure, difference

FILE = "compare.html"
ABSENT = '<span class="faint">–</span>'


def write(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes `out`, ./compare.html if None; its path. UserError if a folder is no run or `out` cannot be written."""
    return page.save(out or Path(FILE), whole(folders))


def show(folders: Sequence[Path], height: int = 900) -> page.Frame:
    """The page in a notebook, `height` pixels of it at a time."""
    return page.Frame(whole(folders), height)


def whole(folders: Sequence[Path]) -> str:
    runs = label_runs([Run(Path(folder)) for folder in folders])
    return page.page(f"{len(runs)} runs compared", parts(runs))


def label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Name -> run: of the folder where those differ, else the path."""
    names = [run.folder.resolve().name for run in runs]
    distinct = len(set(names)) == len(names)
    return {name if distinct else str(run.folder): run for name, run in zip(names, runs, strict=True)}


def parts(runs: Mapping[str, Run]) -> Iterator[str]:
    title = f"<h1>{len(runs)} runs compared</h1>"
    alarms = (f"{label}: {line}" for label, run in runs.items() for line in warnings(run))
    yield f"<header>{title}{overview(runs)}{page.notes(alarms)}</header>"
    yield page.section("Experiments", *(each.html() for each in tables(list(runs.values()))))
    yield page.section("Figures", figures(runs))
    yield page.section("Last samples", samples(runs))
    yield page.section("Curves", curve_groups(runs))
    yield page.section("Settings that differ", settings(runs))


def overview(runs: Mapping[str, Run]) -> str:
    rows = []
    for number, (label, run) in enumerate(runs.items()):
        end = run.end
        state = f"{page.state(end['state'])} {html.escape(end.get('reason', ''))}"
        budget = f"{run.kimg:,.10g} of {float(run.config.get('kimg') or 0):,.10g}"
        name = f'<p class="legend whole"><span class="s{number % 8}"><b>{html.escape(label)}</b></span></p>'
        rows.append((name, html.escape(run.name), state, budget, html.escape(str(run.folder))))
    return page.table(("run", "experiment", "state", "kimg", "folder"), rows)


def settings(runs: Mapping[str, Run]) -> str:
    keys = sorted(set().union(*(run.settings for run in runs.values())))
    nodes = [inner(run.settings) for run in runs.values()]
    rows: dict[str, list[str]] = {}
    for key in keys:
        steps = key.split(".")
        paths = [".".join(steps[: i + 1]) for i in range(len(steps))]
        top = next((path for path in paths if not all(path in known for known in nodes)), key)  # some lack all of it
        cells = [setting_text(run.settings, top, known) for run, known in zip(runs.values(), nodes, strict=True)]
        if len(set(cells)) > 1:
            rows[top] = cells
    escaped = [[html.escape(cell) for cell in (key, *cells)] for key, cells in rows.items()]
    return page.table(("setting", *runs), escaped) or "<p>None: these runs were configured alike.</p>"


def inner(settings: Mapping[str, Any]) -> set[str]:
    """All dotted names, of leaves and of what holds them."""
    return {key[:end] for key in settings for end in (*(i for i, c in enumerate(key) if c == "."), len(key))}


def setting_text(settings: Mapping[str, Any], key: str, known: set[str]) -> str:
    """The value of a leaf, the class of a part, or a dash where there is neither."""
    if key not in known:
        return "–"
    return str(settings.get(key, settings.get(f"{key}._target_", "set")))


def samples(runs: Mapping[str, Run]) -> str:
    shots = (
        page.picture(run.grids[-1][1], f"{label}, kimg {run.grids[-1][0]:.4g}")
        for label, run in runs.items()
        if run.grids
    )
    joined = "".join(shots)
    return f'<div class="side">{joined}</div>' if joined else ""


# Figures --------------------------------------------------------------------------------------------------------------


def figures(runs: Mapping[str, Run]) -> str:
    """A row a metric and protocol of the first run that has it; differences are from that run."""
    measured = [list(newest(run).values()) for run in runs.values()]
    rows, seen = [], set[str]()
    for first, own in enumerate(measured):
        for figure in own:
            if figure.metric not in seen:
                cells = (
                    [ABSENT] * first + [value(figure)] + [beside(figure, others) for others in measured[first + 1 :]]
                )
                rows.append((html.escape(figure.metric), *cells, html.escape(protocol(figure))))
        seen |= {figure.metric for figure in own}
    return page.table(("metric", *runs, "protocol"), rows)


def beside(figure: Figure, others: Sequence[Figure]) -> str:
    """A cell: another run's figure of the same metric and how it differs, or why it does not compare."""
    refusal = ABSENT
    for other in others:
        if other.metric == figure.metric:
            try:
                change = difference(other, figure)
            except UserError as error:
                refusal = f"{value(other)}<br>not comparable: {html.escape(str(error))}"
            else:
                better = {"lower": change < 0, "higher": change > 0}.get(figure.better)
                kind = "" if better is None or not change else "good" if better else "bad"
                return f'{value(other)} <span class="{kind}">{change:+.3g}</span>'
    return refusal
