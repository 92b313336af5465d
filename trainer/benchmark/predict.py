"""The cost model set against what was measured here."""

from __future__ import annotations

from typing import Any

from trainer.benchmark.model import Collective, fitted, step


def collectives(counted: dict[str, dict[str, float]]) -> list[Collective]:
    """From `calls` and `bytes` by kind, as the probe counts them."""
    return [Collective(kind, counted["bytes"].get(kind, 0.0), calls) for kind, calls in counted["calls"].items()]


def check(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Predicted against measured seconds of every step on several ranks.

    Compute: what as many processes apart took, for the phases and beside them. Communication: the collectives counted
    there, over links fitted to the all_reduces timed there.
    """
    rows = []
    for row in result["scaling"]:
        if row["ranks"] == 1 or not row["probe"]:
            continue
        ranks, apart = row["ranks"], row["apart"]
        links = fitted(row["probe"]["sweep"], ranks)
        phases = [collectives(phase) for phase in row["probe"]["phases"].values()]
        cost = step(result["strategy"], list(apart["phases_s"].values()), phases, links, ranks)
        between = sum(links.seconds(c, ranks) for c in collectives(row["probe"]["between_phases"]))
        rest = apart["step_s"] - cost.compute + between
        rows.append(
            {
                "mode": row["mode"],
                "ranks": ranks,
                "compute_s": apart["step_s"],
                "communication_s": cost.communication + between,
                "sum_s": cost.apart + rest,
                "overlapped_s": cost.overlapped + rest,
                "measured_s": row["step_s"],
                "bandwidth_gib_s": links.intra_gib_s,
                "latency_us": links.latency_us,
            }
        )
    return rows
