"""Which metric is drawn where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.report.plot import Points, chart
from trainer.report.run import Run

GROUPS = ("Quality", "Losses", "Optimisation", "Speed and memory")
OPTIMISATION = ("learning_rate", "gradient_norm", "loss_scale")


def place(key: str) -> tuple[str, str, str]:
    """Group, chart and curve of a metric: generator/loss -> (Losses, loss, generator)."""
    owner, _, name = key.rpartition("/")
    if owner.startswith("val"):
        return "Quality", key, ""
    if owner == "throughput":
        return ("Speed and memory", "ms a step", name[:-3]) if name.endswith("_ms") else ("Speed and memory", name, "")
    if owner == "memory":
        return "Speed and memory", f"memory {name}", ""
    return "Optimisation" if name in OPTIMISATION else "Losses", name, owner


def curve_groups(runs: Mapping[str, Run]) -> str:
    """All metrics. A chart has the curves of one run's networks, or of one metric in several runs (label -> run)."""
    charts: dict[str, dict[str, dict[str, Points]]] = {group: {} for group in GROUPS}
    for label, run in runs.items():
        for key in run.curves:
            if key == "throughput/images_per_second_per_rank" and run.curves[key] == run.curves[key[:-9]]:
                continue  # one rank
            group, title, curve = place(key)
            points = run.finite(key)
            if points and len(runs) > 1:
                charts[group].setdefault(key, dict.fromkeys(runs, ()))[label] = points  # each run keeps its colour
            elif points:
                charts[group].setdefault(title, {})[curve or "last"] = points
    drawn = []
    for group, of_group in charts.items():
        if of_group:
            figures = "".join(chart(title, curves) for title, curves in sorted(of_group.items(), key=order))
            drawn.append(f'<h4>{group}</h4><div class="charts">{figures}</div>')
    over = '<p class="faint">Over thousand images seen. Beside each name is its last value.</p>'
    return over + "".join(drawn) if drawn else ""


def order(item: tuple[str, Any]) -> tuple[bool, str]:
    """By name, losses before what they are made of."""
    return item[0].rpartition("/")[2] != "loss", item[0]
