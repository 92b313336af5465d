"""A forecast as tables for the terminal and for README.md, as JSON, and as a picture."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from trainer.benchmark import plot
from trainer.benchmark.report import leave
from trainer.report.table import markdown

GIB, GB = 2**30, 1e9
KINDS = ("parameters", "gradients", "optimizer", "master", "buckets", "gathered", "ema", "frozen", "activations")


def number(value: float) -> str:
    """Three figures, and all of them above a thousand."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def bytes_text(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{number(count / size)} {unit}"
    return f"{count:.0f} B"


def plural(gpus: int) -> str:
    return f"{gpus:,} GPU{'s' * (gpus != 1)}"


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size or unit == "s":
            return f"{number(seconds / size)} {unit}"
    raise AssertionError


def costs(result: dict[str, Any]) -> str:
    head = ["strategy", "GPUs", "memory", "sent a step", "step", "waits", "images/s", "run", "data read"]
    priced = result["price_gpu_hour"] is not None
    rows = []
    for row in result["rows"]:
        memory = bytes_text(row["memory_bytes"])
        cells = [
            *(row["strategy"], f"{row['gpus']:,}", memory if row["fits"] else f"{memory}, too much"),
            *(bytes_text(row["sent_bytes"]), f"{number(1000 * row['step_s'])} ms", f"{row['waited']:.0%}"),
            *(number(row["images_per_second"]), duration(3600 * row["hours"]), f"{bytes_text(row['read_bytes_s'])}/s"),
        ]
        rows.append([*cells, number(row["price"])] if priced else cells)
    return markdown([*head, "price"] if priced else head, rows)


def memory(result: dict[str, Any]) -> str:
    """Where it goes, in MB."""
    kinds = [kind for kind in KINDS if any(row["memory"].get(kind) for row in result["rows"])]
    rows = [
        [row["strategy"], f"{row['gpus']:,}", *(f"{row['memory'].get(kind, 0.0) / 1e6:,.1f}" for kind in kinds)]
        for row in result["rows"]
    ]
    return markdown(["strategy", "GPUs", *(f"{kind} MB" for kind in kinds)], rows)


def advice(result: dict[str, Any]) -> str:
    lines = []
    for gpus, row in zip(dict.fromkeys(row["gpus"] for row in result["rows"]), result["advice"], strict=True):
        if row is None:
            lines.append(f"- {plural(gpus)}: nothing fits; fewer images a GPU, objective.accumulate, or another card")
            continue
        saving = row["checkpoint"]
        work_s = 3600 * row["work_hours"]
        saved = f"save each {duration(row['best_interval_s'])} (simulated; by formula {duration(saving['interval_s'])})"
        if row["best_interval_s"] >= work_s:
            saved = "saved once, at its end"
        price = f", price {number(row['price'])}" if row["price"] else ""
        lines.append(
            f"- {plural(gpus)}: strategy={row['strategy']}, {row['images_per_gpu']:,} images a GPU "
            f"(data.batch_size={row['images_per_gpu'] * gpus}): {number(row['images_per_second'])} images/s, "
            f"{duration(3600 * row['simulated_hours'])} with failures{price}. A failure each "
            f"{duration(saving['mtbf_s'])}, a checkpoint of {bytes_text(saving['bytes'])} in "
            f"{duration(saving['write_s'])}: {saved}"
        )
    return "\n".join(lines)


def assumptions(result: dict[str, Any]) -> str:
    card, faulty = result["card"], result["faults"]
    between = f"{number(card['of_link'] * card['network_gbit_s'] / 8)} GB/s a GPU between nodes"
    node = "machine whose cores all ranks share" if card["carries"] else f"node of {card['per_node']}, {between}"
    load = faulty["load_images_s"]
    loading = f"its loader makes {number(load)} images/s" if load else "loading keeps up"
    return "\n".join(
        f"- {line}"
        for line in (
            f"{result['source']}; {card['of_peak']:.0%} of its peak and {card['of_memory']:.0%} of "
            "its memory's bandwidth are reached, operator by operator",
            f"links of {number(card['of_link'] * card['link_gb_s'])} GB/s in a {node}, in one direction",
            f"each rank's pieces of work vary by {faulty['jitter']:.0%}; {faulty['stragglers']:.0%} of the ranks are "
            f"slower by {faulty['slower']:.0%}; {loading}",
            f"a GPU fails each {faulty['mtbf_hours']:,.0f} hours, a restart takes {faulty['restart_minutes']:g} "
            f"minutes, checkpoints are written at {faulty['write_gb_s']:g} GB/s while all wait, as often as Young says",
            "as many images on each GPU however many there are: the batch grows, and kimg stays",
        )
    )


def sections(result: dict[str, Any]) -> dict[str, str]:
    return {
        "Cost": costs(result),
        "Memory of a GPU": memory(result),
        "Recommended": advice(result),
        "Assumed": assumptions(result),
    }


def write(cfg: DictConfig, result: dict[str, Any]) -> None:
    """Prints the tables; writes forecast.json, README.md and forecast.png into `cfg.out`."""
    images = result["rows"][0]["images_per_gpu"]
    where = "this machine" if result["gpu"] == "measured" else result["gpu"]
    title = (
        f"{result['name']} on {where}, {images} images a GPU, {result['precision']}, {result['kimg']:g} kimg: "
        f"{result['weights'] / 1e6:,.1f} M weights, {number(result['gflop_image'])} GFLOP an image"
    )
    drawn = "forecast.png", "Images a second, memory and hours over GPUs", plot.draw_forecast
    leave(cfg.out, "forecast.json", title, sections(result), result, drawn)
