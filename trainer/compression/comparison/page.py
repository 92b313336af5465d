"""The proof as files: a page that needs nothing but a browser, the same for a README, and what both were made from."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainer.benchmark.measure import environment
from trainer.compression.comparison import charts
from trainer.compression.comparison.grid import side_by_side
from trainer.compression.comparison.pareto import FILE as FRONT
from trainer.compression.comparison.pareto import MS, Point, draw, front, of_stages, svg
from trainer.compression.comparison.table import MIB, SHARES, markdown, number, over_the_best, rows, times
from trainer.compression.comparison.variant import Stage
from trainer.errors import UserError
from trainer.report import page

HTML, README, FIGURES, GRID = "proof.html", "proof.md", "proof.json", "grid.png"
FILES = (HTML, README, FIGURES, GRID, FRONT)
MEASURED = (
    "All stages are timed in turns within each round, after a warm-up; figures are medians over rounds, gains medians "
    "of the rounds' ratios. A batch of n goes from latents and conditions to pixels by the sampler, as who asks for "
    "batch_size=n has it. ms: the median call with one image; its speed-up is over the first stage. images/s: at the "
    "batch size where most are drawn in a second; their speed-ups are over the stage before, and over the first. Rows "
    "without other figures are the stage before them run in another way, without a loss. MiB: "
    "of the saved weights. Text features are ready before the clock starts; fresh processes, where listed, encode "
    "their caption. PSNR and SSIM compare with the first stage's images of the same captions and seeds."
)


def write(
    folder: Path,
    title: str,
    stages: Sequence[Stage],
    points: Sequence[Point] = (),
    grids: Mapping[str, Tensor] | None = None,
    captions: Sequence[str] = (),
    protocol: Mapping[str, Any] | None = None,
    cost: str = MS,
) -> Path:
    """Writes proof.html, proof.md, proof.json and, as far as there is something to show, grid.png and front.png.

    points: all networks that were tried; the stages if there are none. cost: what their cost is, with its unit.
    grids: stage -> (N, 3, H, W) uint8 of the N `captions`, the same seeds for each. protocol: of the figures.
    Returns the path of the page. UserError where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sheet = side_by_side(grids, captions) if grids else None
        if sheet:
            sheet.save(folder / GRID)
        points = points or of_stages(stages)
        drawn = len(points) > 1 and draw(points, folder / FRONT, cost)
        facts = {"command": command(), **machine(), **{f"figures: {k}": v for k, v in (protocol or {}).items()}}
        known = {"title": title, "stages": [*map(asdict, stages)], "points": [*map(asdict, points)], "cost": cost}
        text = json.dumps({**known, "measured": facts}, indent=1, default=str)
        (folder / FIGURES).write_text(f"{text}\n", encoding="utf-8")
        pictures = [name for name, there in ((GRID, sheet), (FRONT, drawn)) if there]
        (folder / README).write_text(readme(title, stages, pictures, facts), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; name a folder that can be written") from error
    parts = [
        f"<header><h1>{escape(title)}</h1>{page.tiles(headline(stages))}</header>",
        page.section("Same captions, same seeds", embed(sheet, "samples of every stage") if sheet else ""),
        page.section("Stages", *stage_parts(stages), f'<p class="faint">{escape(MEASURED)}</p>'),
        page.section("Speed", charts.both(stages)),
        page.section("Front", *(front_parts(points, cost) if len(points) > 1 else ())),
        page.section("In a fresh process", page.table(*fresh_rows(stages))),
        page.section("Measured", page.table((), [(key, escape(str(value))) for key, value in facts.items()])),
    ]
    return page.save(folder / HTML, page.page(title, parts))


def command() -> str:
    module = Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"trainer.{module}", *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """Where it was measured; of a CPU also its name and its instructions, on which int8 kernels depend."""
    facts = environment()
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    name = f"{found[1]}, " if found else ""
    return {**facts, "cpu": f"{name}{facts['cpu']}, {torch.backends.cpu.get_cpu_capability()}"}


def headline(stages: Sequence[Stage]) -> Iterator[tuple[str, str, str]]:
    """Name, value, remark of what the last stage is against the first."""
    first, last = stages[0], [stage for stage in stages if not stage.beside][-1]
    if first.speed and last.speed:
        speeds = f"images/s: {number(first.speed.best)} → {number(last.speed.best)}"
        if gain := over_the_best(stages):
            yield "each at its best", *gain
        yield "throughput", describe_gain(last.speed.versus(first.speed), "faster", "slower"), speeds
        ms = f"ms an image: {number(first.speed.latency_ms['p50'])} → {number(last.speed.latency_ms['p50'])}"
        yield "latency", describe_gain(last.speed.latency_versus(first.speed), "quicker", "slower"), ms
    if first.size and last.size:
        mib = f"MiB: {number(first.size.bytes / MIB)} → {number(last.size.bytes / MIB)}"
        yield "size", describe_gain(first.size.bytes / last.size.bytes, "smaller", "larger"), mib
    if first.distance and last.distance is not None:
        change = f"{100 * (last.distance / first.distance - 1):+.1f}%"
        yield "Fréchet distance", change, f"{first.distance:.4g} → {last.distance:.4g}"
    for name, prefix in SHARES.items():
        before, after = first.figure(prefix), last.figure(prefix)
        if before is not None and after is not None:
            yield name, f"{100 * (after - before):+.1f} points", f"{100 * before:.1f}% → {100 * after:.1f}%"


def describe_gain(gain: float, better: str, worse: str) -> str:
    return f"{times(gain)} {better}" if gain >= 1 else f"{times(1 / gain)} {worse}"


def stage_parts(stages: Sequence[Stage]) -> tuple[str, str]:
    """The table, and the notes below it."""
    head, cells = rows(stages)
    whole = [[f'<span class="whole">{escape(cell)}</span>' for cell in row] for row in cells]
    return page.table(head, whole), page.table((), [(escape(s.name), escape(s.note)) for s in stages if s.note])


def front_parts(points: Sequence[Point], cost: str) -> tuple[str, str]:
    """The figure, and what its numbers stand for."""
    best = enumerate(front(points), start=1)
    known = [(str(place), escape(point.name), number(point.cost), f"{point.fd:.4g}") for place, point in best]
    return svg(points, cost), page.table(("", "passes", cost, "FD"), known)


def fresh_rows(stages: Sequence[Stage]) -> tuple[tuple[str, ...], list[list[str]]]:
    head = ("stage", "import s", "load s", "start to first image s", "peak MiB", "at batch")
    known = [(each.name, each.fresh) for each in stages if each.fresh]
    return head, [
        [
            escape(name),
            *(f"{seconds:.2f}" for seconds in (run.import_s, run.load_s, run.first_image_s)),
            number(run.peak_bytes / MIB),
            str(run.batch),
        ]
        for name, run in known
    ]


def readme(title: str, stages: Sequence[Stage], pictures: Sequence[str], facts: Mapping[str, Any]) -> str:
    """Headline, table, pictures and machine as Markdown."""
    head = "\n".join(f"- {name}: **{value}** ({remark})" for name, value, remark in headline(stages))
    notes = "\n".join(f"- {each.name}: {each.note}" for each in stages if each.note)
    shown = "\n".join(f"![{name.partition('.')[0]}]({name})\n" for name in pictures)
    where = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    parts = [f"# {title}", head, markdown(stages), notes, MEASURED, shown, f"## Measured\n\n{where}"]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def embed(image: Image.Image, alt: str) -> str:
    """A figure of the picture as PNG, which leaves every pixel as it was."""
    with io.BytesIO() as held:
        image.save(held, "PNG", optimize=True)
        data = base64.b64encode(held.getvalue()).decode()
    return (
        f'<figure class="shot"><div class="box" tabindex="0"><img width="{image.width}" height="{image.height}" '
        f'alt="{escape(alt)}" src="data:image/png;base64,{data}"></div></figure>'
    )
