"""Images/s over ranks as measured; what a forecast says, over GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, left = plt.subplots(figsize=(5, 4))
    rows = result["scaling"]
    ranks = sorted({row["ranks"] for row in rows})
    one = rows[0]["images_per_second"]
    left.plot(ranks, [r * one for r in ranks], "--", color="0.6", label="linear")
    for mode, marker in (("weak", "o"), ("strong", "s")):
        chosen = [row for row in rows if row["mode"] == mode]
        left.plot([r["ranks"] for r in chosen], [r["images_per_second"] for r in chosen], marker + "-", label=mode)
    for kind, marker in (("overlapped_s", "^"), ("sum_s", "v")):
        chosen = [row for row in result["check"] if row["mode"] == "weak"]
        size = one * rows[0]["step_s"]
        speeds = [size * row["ranks"] / row[kind] for row in chosen]
        name = "model, weak, " + ("overlap" if kind == "overlapped_s" else "no overlap")
        left.plot([row["ranks"] for row in chosen], speeds, marker, color="k", fillstyle="none", label=name)
    left.set(xlabel="ranks", ylabel="images/s", xticks=ranks, ylim=(0, None))
    left.set_title(f"{result['name']}, {result['strategy']}, {result['environment']['device']}: measured")
    left.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_forecast(result: dict[str, Any], file: Path) -> None:
    """Images/s and what a card must hold, over GPUs, a line a strategy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = result["rows"]
    counts = sorted({row["gpus"] for row in rows})
    for number, strategy in enumerate(dict.fromkeys(row["strategy"] for row in rows)):
        chosen = [row for row in rows if row["strategy"] == strategy]
        gpus = [row["gpus"] for row in chosen]
        line: dict[str, Any] = {"lw": 7 - 1.2 * number, "ms": 4, "label": strategy}  # first widest: some lie on others
        left.plot(gpus, [row["images_per_second"] for row in chosen], "o-", **line)
        right.plot(gpus, [row["memory_bytes"] / 1e9 for row in chosen], "o-", **line)
    right.axhline(result["card"]["memory_gb"], ls="--", color="0.6", label=result["gpu"])
    left.set(ylabel="images/s", yscale="log")
    right.set(ylabel="memory of a GPU, GB", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.set_xlabel("GPUs")
        axes.legend()
    images = rows[0]["images_per_gpu"]
    figure.suptitle(f"{result['name']}, {images} images a GPU, {result['gpu']}: forecast", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
