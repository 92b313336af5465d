"""Stages as a table, one row each: for the terminal, for README.md and for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.compression.comparison.variant import Stage
from trainer.report import table

MIB = 2**20
SHARES = {"attribute accuracy": "attributes_scene", "R-precision": "r_precision"}  # name -> figure

Cell = Callable[[Stage, Stage, Stage], str]  # of a stage, the one before it and the first; "" where nothing is known


def rows(stages: Sequence[Stage]) -> tuple[list[str], list[list[str]]]:
    """Head and cells. Columns of which nothing is known are left out.

    Speed-ups are of images/s: of the step over the stage before, else over the first. Size ratio: the first's bytes
    over its own. FD, attribute accuracy and R-precision with their change from the first, in % and in points. PSNR in
    dB and SSIM: to the first's images.
    """
    pairs, way = list[tuple[Stage, Stage]](), stages[0]
    for stage in stages:
        pairs.append((stage, way))
        way = way if stage.beside else stage
    columns = {name: [cell(stage, before, stages[0]) for stage, before in pairs] for name, cell in COLUMNS.items()}
    known = {name: cells for name, cells in columns.items() if any(cells)}
    return list(known), [list(row) for row in zip(*known.values(), strict=True)]


def over_the_best(stages: Sequence[Stage]) -> tuple[str, str] | None:
    """What the last stage gains in images/s over the first, both at their best: each with those beside it. And that in
    words, with one image's time, of what is best in that. None where nothing is beside the first."""
    ends = [at for at, stage in enumerate(stages) if not stage.beside]
    known = [(stage.name, stage.speed) for stage in stages if stage.speed]
    if len(known) < len(stages) or len(ends) < 2 or ends[1] == 1:
        return None
    lasts, firsts = known[ends[-1] :], known[: ends[1]]
    (fastest, rate), (base, base_rate) = (max(some, key=lambda each: each[1].best) for some in (lasts, firsts))
    (quickest, one), (start, start_one) = (
        min(some, key=lambda each: each[1].latency_ms["p50"]) for some in (lasts, firsts)
    )
    gain, sooner = times(rate.versus(base_rate)), times(one.latency_versus(start_one))
    return gain, f"{fastest} draws {gain} the images/s of {base}; {quickest} one image {sooner} as fast as {start}"


def text(stages: Sequence[Stage]) -> str:
    """For a terminal."""
    return table.plain(*rows(stages))


def markdown(stages: Sequence[Stage]) -> str:
    return table.markdown(*rows(stages))


def times(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 9.995 else f"{ratio:.1f}×"


def number(value: float) -> str:
    """Three digits: 0.0123, 1.23, 123, 12,345."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# Cells ----------------------------------------------------------------------------------------------------------------


def latency(stage: Stage, before: Stage, first: Stage) -> str:
    return number(stage.speed.latency_ms["p50"]) if stage.speed else ""


def latency_speedup(stage: Stage, before: Stage, first: Stage) -> str:
    return times(stage.speed.latency_versus(first.speed)) if stage.speed and first.speed else ""


def throughput(stage: Stage, before: Stage, first: Stage) -> str:
    return f"{number(stage.speed.best)} ({stage.speed.best_batch})" if stage.speed else ""


def step_speedup(stage: Stage, before: Stage, first: Stage) -> str:
    if stage is first:
        return ""
    return times(stage.speed.versus(before.speed)) if stage.speed and before.speed else ""


def speedup(stage: Stage, before: Stage, first: Stage) -> str:
    return times(stage.speed.versus(first.speed)) if stage.speed and first.speed else ""


def mib(stage: Stage, before: Stage, first: Stage) -> str:
    return number(stage.size.bytes / MIB) if stage.size else ""


def size_ratio(stage: Stage, before: Stage, first: Stage) -> str:
    return times(first.size.bytes / stage.size.bytes) if stage.size and first.size else ""


def work(stage: Stage, before: Stage, first: Stage) -> str:
    return number(stage.size.multiply_adds / 1e6) if stage.size else ""


def distance(stage: Stage, before: Stage, first: Stage) -> str:
    value, reference = stage.distance, first.distance
    if value is None:
        return ""
    change = f" ({100 * (value / reference - 1):+.1f}%)" if reference and stage is not first else ""
    return f"{value:.4g}{change}"


def share(prefix: str) -> Cell:
    def cell(stage: Stage, before: Stage, first: Stage) -> str:
        value, reference = stage.figure(prefix), first.figure(prefix)
        if value is None:
            return ""
        change = f" ({100 * (value - reference):+.1f})" if reference is not None and stage is not first else ""
        return f"{100 * value:.1f}%{change}"

    return cell


def similarity(prefix: str, digits: int) -> Cell:
    def cell(stage: Stage, before: Stage, first: Stage) -> str:
        value = stage.figure(prefix)
        return "" if value is None or stage is first else f"{value:.{digits}f}"

    return cell


COLUMNS: dict[str, Cell] = {
    "stage": lambda stage, before, first: stage.name,
    "ms": latency,
    "latency speed-up": latency_speedup,
    "images/s (batch)": throughput,
    "speed-up of the step": step_speedup,
    "speed-up": speedup,
    "MiB": mib,
    "size ratio": size_ratio,
    "M multiply-adds": work,
    "FD": distance,
    **{name: share(prefix) for name, prefix in SHARES.items()},
    "PSNR": similarity("psnr", 1),
    "SSIM": similarity("ssim", 3),
}
