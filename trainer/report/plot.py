"""Curves as SVG, coloured by the page's style sheet (.s0 to .s7) so that they follow its light and dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 10, 26  # around the axes, for the numbers
MOST_POINTS = 400
DECADES = 2  # positive values that span more are drawn on a logarithmic axis


def chart(title: str, curves: Mapping[str, Points]) -> str:
    """A figure of curves, name -> finite (x, y) by rising x, not all empty; the legend has their last values."""
    styles = {name: f"s{number % 8}" for number, name in enumerate(curves)}
    drawn = {name: downsample(points) for name, points in curves.items() if points}
    x = Axis([x for points in drawn.values() for x, _ in points], LEFT, WIDTH - RIGHT, num_ticks=5)
    y = Axis([y for points in drawn.values() for _, y in points], HEIGHT - BOTTOM, TOP, num_ticks=4, may_be_log=True)
    parts = [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks]
    parts += [f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{short(t)}</text>' for t in y.ticks]
    parts += [f'<text x="{x(t):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{short(t)}</text>' for t in x.ticks]
    legend = []
    for name, points in drawn.items():
        style = styles[name]
        at = [f"{x(a):.1f},{y(b):.1f}" for a, b in points]
        if len(at) > 1:
            parts.append(f'<polyline class="{style}" points="{" ".join(at)}"/>')
        if len(at) <= 24:
            parts += [dot(style, x(a), y(b), f"{short(b)} at kimg {short(a)}") for a, b in points]
        legend.append(f'<span class="{style}">{escape(name)} <b>{curves[name][-1][1]:.4g}</b></span>')
    scale = " <small>log</small>" if y.log else ""
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}{scale}</h3><p class="legend">{" ".join(legend)}</p>'
        f'</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def dot(style: str, x: float, y: float, words: str) -> str:
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{words}</title></circle>'


class Axis:
    """Value -> place between `start` and `end`; logarithmic where allowed, if the values are positive and far apart."""

    def __init__(self, values: Sequence[float], start: float, end: float, num_ticks: int, may_be_log: bool = False):
        low, high = min(values), max(values)
        usual = sorted(values)[len(values) // 20]  # a value that happened to be near 0 tells nothing of the scale
        self.log = may_be_log and low > 0 and high > usual * 10**DECADES
        if not self.log and high - low <= 1e-9 * max(abs(low), abs(high)):  # a level line stands in the middle
            low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
        self.start, self.end = start, end
        self.low, self.high = self._scaled(low), self._scaled(high)
        self.ticks = decades(low, high, num_ticks) if self.log else round_numbers(low, high, num_ticks)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten in [low, high]."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def decades(low: float, high: float, count: int) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**exponent for exponent in range(first, last + 1, max(1, round((last - first + 1) / count)))]


def downsample(points: Points) -> Points:
    """At most MOST_POINTS points, each the mean of as many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def short(value: float) -> str:
    """1234.5 -> `1.23k`; 0.000012 -> `1.2e-05`."""
    size = abs(value)
    if size >= 1e3 and size < 1e9:
        power, letter = next((p, name) for p, name in ((1e6, "M"), (1e3, "k")) if size >= p)
        return f"{value / power:.3g}{letter}" if size < 999.5 * power else f"{value / power:.0f}{letter}"
    return f"{value:.3g}" if size else "0"
