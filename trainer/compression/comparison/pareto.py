"""The trade between what an image costs and how good it is: the points that no other point beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from trainer.compression.comparison.variant import Stage
from trainer.process.distribution import install
from trainer.process.progress import say
from trainer.report.plot import Axis, dot, short

FILE = "front.png"
MS = "ms an image"  # the cost of points that are taken from stages
WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 14, 42  # around the axes


@dataclass(frozen=True)
class Point:
    """A network by its passes, its cost (time an image, or bytes) and its Fréchet distance: less of both is better."""

    name: str
    cost: float
    fd: float


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto-optimal ones by rising cost: no other is as good in both and better in one. Equal ones all stay."""
    best, kept = float("inf"), list[Point]()
    for point in sorted(points, key=lambda each: (each.cost, each.fd)):
        if point.fd < best or (kept and (point.cost, point.fd) == (kept[-1].cost, kept[-1].fd)):
            kept.append(point)
            best = point.fd
    return kept


def of_stages(stages: Sequence[Stage]) -> list[Point]:
    """Milliseconds an image at the best batch size, of the stages of which this and a distance are known."""
    return [Point(s.name, 1000 / s.speed.best, s.distance) for s in stages if s.speed and s.distance is not None]


def steps(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Corners (cost, fd) of the front: what it reaches at a cost holds until a dearer point is better."""
    best = front(points)
    corners = [(best[0].cost, best[0].fd)]
    for point in best[1:]:
        corners += [(point.cost, corners[-1][1]), (point.cost, point.fd)]
    return corners


def svg(points: Sequence[Point], cost: str = MS) -> str:
    """A figure for a page: the front as a line with its points numbered as in `front`, all others as dots."""
    best = front(points)
    x = Axis([point.cost for point in points], LEFT, WIDTH - RIGHT, num_ticks=5, may_be_log=True)
    y = Axis([point.fd for point in points], HEIGHT - BOTTOM, TOP, num_ticks=5, may_be_log=True)
    parts = [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>' for t in y.ticks]
    parts += [f'<text x="{LEFT - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{short(t)}</text>' for t in y.ticks]
    parts += [f'<text x="{x(t):.1f}" y="{HEIGHT - 24}" text-anchor="middle">{short(t)}</text>' for t in x.ticks]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(cost)} →</text>')
    corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in steps(points))
    parts.append(f'<polyline class="s0" points="{corners}"/>')
    for point in sorted(points, key=best.__contains__):  # those of the front last, above the others
        words = escape(f"{point.name}: {short(point.cost)} {cost}, FD {point.fd:.4g}")
        parts.append(dot("s0" if point in best else "s7", x(point.cost), y(point.fd), words))
    for number, point in enumerate(best, start=1):
        parts.append(f'<text x="{x(point.cost) + 5:.1f}" y="{y(point.fd) - 5:.1f}">{number}</text>')
    title = f"Fréchet distance over {escape(cost)}"
    return (
        f'<figure class="chart" style="max-width:760px"><figcaption><h3>{title}</h3></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg></figure>'
    )


def draw(points: Sequence[Point], file: Path, cost: str = MS) -> bool:
    """The same as a picture, with the names below; False, with a line that says so, where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        say(f"no {file.name}: it needs matplotlib; {install('plot')}")
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    best = front(points)
    figure, axes = plt.subplots(figsize=(7, 4.2 + 0.2 * len(best)), layout="constrained")
    others = [point for point in points if point not in best]
    axes.plot([p.cost for p in others], [p.fd for p in others], "o", color="0.7", ms=4)
    axes.plot(*zip(*steps(points), strict=True), "-", lw=1.2, color="tab:blue")
    axes.plot([p.cost for p in best], [p.fd for p in best], "o", color="tab:blue")
    for number, point in enumerate(best, start=1):
        axes.annotate(str(number), (point.cost, point.fd), (4, 4), textcoords="offset points")
    names = [f"{i}  {p.name}: {short(p.cost)} {cost}, FD {p.fd:.4g}" for i, p in enumerate(best, start=1)]
    axes.set(xlabel="\n".join([cost, "", *names]), ylabel="Fréchet distance")
    figure.savefig(file, dpi=130)
    plt.close(figure)
    return True
