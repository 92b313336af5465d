"""Images/s over ranks as measured, and the efficiency that the model predicts, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(result: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    predicted = result.get("clusters")
    figure, axes = plt.subplots(1, 2 if predicted else 1, figsize=(10 if predicted else 5, 4), squeeze=False)
    left = axes[0, 0]
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
    if predicted:
        right = axes[0, 1]
        counts = [int(ranks) for ranks in predicted["rows"][0]["ranks"]]
        for number, row in enumerate(predicted["rows"]):  # the first widest: some curves lie on others
            efficiencies = [100 * each["efficiency_overlapped"] for each in row["ranks"].values()]
            right.plot(counts, efficiencies, "o-", lw=7 - 1.2 * number, ms=4, label=row["strategy"])
        right.set(xlabel="ranks", ylabel="weak scaling efficiency, %", ylim=(0, 105))
        right.set_xscale("log")
        right.set_xticks(counts, counts)
        right.minorticks_off()
        right.set_title(f"predicted; {predicted['source']}", fontsize=9)
        right.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
