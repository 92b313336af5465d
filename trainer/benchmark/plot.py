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
    """Images/s that a GPU makes, over their number, a line a strategy; what fills its memory at the largest number."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    rows = result["rows"]
    counts = sorted({row["gpus"] for row in rows})
    for marker, strategy in zip("osd^vx", dict.fromkeys(row["strategy"] for row in rows), strict=False):
        chosen = [row for row in rows if row["strategy"] == strategy]
        speeds = [row["images_per_second"] / row["gpus"] for row in chosen]
        left.plot([row["gpus"] for row in chosen], speeds, marker + "-", label=strategy)
    left.set(xlabel="GPUs", ylabel="images/s of a GPU", xscale="log", ylim=(0, None))
    left.set_xticks(counts, [f"{count:,}" for count in counts])
    left.minorticks_off()
    left.legend()
    last = [row for row in rows if row["gpus"] == counts[-1]]
    names, filled = [row["strategy"] for row in last], [0.0] * len(last)
    for kind in dict.fromkeys(kind for row in last for kind, count in row["memory"].items() if count):
        sizes = [row["memory"].get(kind, 0.0) / 1e9 for row in last]
        right.barh(names, sizes, left=filled, label=kind)
        filled = [a + b for a, b in zip(filled, sizes, strict=True)]
    right.invert_yaxis()
    card = result["card"]["memory_gb"]
    right.set(xlabel=f"GB of {card:,.0f} on one of {counts[-1]:,} GPUs", xlim=(0, 1.6 * max(filled)))
    right.legend(loc="upper right", fontsize=8)
    images = rows[0]["images_per_gpu"]
    figure.suptitle(f"{result['name']}, {images} images a GPU, {result['gpu']}: forecast", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
