"""The cost model set against what was measured here, and asked for clusters that are not here."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from trainer.benchmark import peak
from trainer.benchmark.model import STRATEGIES, Collective, Interconnect, Network, fitted, step, volumes


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


def clusters(cfg: DictConfig, result: dict[str, Any]) -> dict[str, Any]:
    """Weak scaling to `predict.ranks` over `interconnect`: every strategy by its formula, this one as counted too.

    Compute is what one rank took here if it is a GPU, else its FLOPs at `predict.mfu` of the peak of `predict.gpu`.
    """
    probe, speed = result["probe"], result["speed"]
    on_gpu = result["environment"]["device"] != "CPU"
    if on_gpu:
        compute, source = list(speed["phases_s"].values()), "compute as measured here"
    else:
        numbers = "16" if result["precision"].startswith(("bf16", "16")) else "tf32"
        tflops = peak.PEAK_TFLOPS[cfg.predict.gpu]
        flops = cfg.predict.mfu * 1e12 * tflops.get(numbers, tflops["fp32"])
        compute = [phase["flops"] / flops for phase in probe["phases"].values()]
        source = f"compute assumed: {cfg.predict.mfu:.0%} of the peak of {cfg.predict.gpu} in {numbers}"
    links = Interconnect(**cfg.interconnect)
    networks = {name: Network(**network) for name, network in probe["networks"].items()}
    plans = {
        strategy: [
            volumes(strategy, networks[name], [other for key, other in networks.items() if key != name])
            for name in probe["phases"]
        ]
        for strategy in STRATEGIES
    }
    probes = [row["probe"] for row in result.get("scaling", [result]) if row["probe"]]
    several = [each for each in probes if len(each["ranks"]) > 1]
    if several:  # what the libraries really do
        plans[f"{result['strategy']}, as counted"] = [collectives(phase) for phase in several[0]["phases"].values()]
    rows = []
    for strategy, phases in plans.items():
        payload = sum(collective.bytes for phase in phases for collective in phase)
        row: dict[str, Any] = {"strategy": strategy, "bytes": payload, "compute_s": sum(compute), "ranks": {}}
        for ranks in cfg.predict.ranks:
            cost = step(strategy.partition(",")[0], compute, phases, links, ranks)
            row["ranks"][ranks] = {
                "communication_s": cost.communication,
                "efficiency_apart": cost.compute / cost.apart,
                "efficiency_overlapped": cost.compute / cost.overlapped,
            }
        rows.append(row)
    return {"source": source, "images_per_rank": speed["batch_size"] // speed["ranks"], "rows": rows}
