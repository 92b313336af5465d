"""Speeds of stages as SVG, in the colours of the report's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from trainer.compression.comparison.variant import Stage
from trainer.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, dot, short

ROW = 34  # height of a stage's bar with its name


def both(stages: Sequence[Stage]) -> str:
    """Latency and throughput side by side, "" where nothing was timed."""
    drawn = latency(stages) + throughput(stages)
    return drawn and f'<div class="charts">{drawn}</div>'


def throughput(stages: Sequence[Stage]) -> str:
    """Images/s over the batch size, a curve a stage; both by powers. "" where nothing was timed."""
    timed = [(number, stage.name, stage.speed.images_per_second) for number, stage in enumerate(stages) if stage.speed]
    if not timed:
        return ""
    sizes = sorted({size for _, _, speeds in timed for size in speeds})
    x = Axis([math.log2(size) for size in sizes], LEFT, WIDTH - RIGHT, num_ticks=5)
    y = Axis([value for _, _, speeds in timed for value in speeds.values()], HEIGHT - BOTTOM, TOP, 4, may_be_log=True)
    parts = [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks]
    parts += [f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{short(t)}</text>' for t in y.ticks]
    parts += [f'<text x="{x(math.log2(s)):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{s}</text>' for s in sizes]
    legend = []
    for number, name, speeds in timed:
        style = f"s{number % 8}"
        at = [(x(math.log2(size)), y(value), size, value) for size, value in speeds.items()]
        parts.append(f'<polyline class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in at)}"/>')
        parts += [dot(style, a, b, escape(f"{name}: {short(v)} images/s, {n} at a time")) for a, b, n, v in at]
        legend.append(f'<span class="{style}">{escape(name)} <b>{short(max(speeds.values()))}</b></span>')
    title = f"Images a second over batch size{' <small>log</small>' if y.log else ''}"
    return figure(title, " ".join(legend), parts, HEIGHT)


def latency(stages: Sequence[Stage]) -> str:
    """A bar a stage up to p50 at batch 1, its marks p95 and p99. "" where nothing was timed."""
    timed = [(number, stage.name, stage.speed.latency_ms) for number, stage in enumerate(stages) if stage.speed]
    if not timed:
        return ""
    x = Axis([0.0, *(values["p99"] for _, _, values in timed)], RIGHT, WIDTH - RIGHT, num_ticks=5)
    height = TOP + ROW * len(timed) + BOTTOM
    floor = height - BOTTOM
    parts = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{floor}"/>' for t in x.ticks]
    parts += [f'<text x="{x(t):.1f}" y="{height - 6}" text-anchor="middle">{short(t)}</text>' for t in x.ticks]
    for row, (number, name, values) in enumerate(timed):
        top = TOP + ROW * row + 15
        p50, p95, p99 = (x(values[key]) for key in ("p50", "p95", "p99"))
        said = ", ".join(f"{key} {values[key]:.3g}" for key in ("p50", "p95", "p99"))
        parts.append(f'<text x="{RIGHT}" y="{top - 2}">{escape(name)}: {said}</text>')
        fill = 'style="fill:var(--c)"'
        parts.append(
            f'<rect class="s{number % 8}" {fill} x="{x(0):.1f}" y="{top + 2}" width="{p50 - x(0):.1f}" height="11"/>'
        )
        line = f"{p50:.1f},{top + 7.5} {p99:.1f},{top + 7.5}"
        parts.append(f'<polyline class="s{number % 8}" points="{line}"/>')
        for place in (p95, p99):
            parts.append(f'<polyline class="s{number % 8}" points="{place:.1f},{top + 3} {place:.1f},{top + 12}"/>')
    return figure("Latency of one image, ms", "bar: median; marks: p95, p99", parts, height)


def figure(title: str, legend: str, parts: Sequence[str], height: float) -> str:
    return (
        f'<figure class="chart"><figcaption><h3>{title}</h3><p class="legend">{legend}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg></figure>'
    )
