"""What a reader should know before trusting the curves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainer.errors import UserError
from trainer.report.run import Run

WAIT_PERCENT = 10  # of a step, for data
WORSE = 1.05  # last Fréchet distance over the best


def warnings(run: Run) -> Iterator[str]:
    """One line each."""
    for key, points in run.curves.items():
        wrong = [(kimg, value) for kimg, value in points if not math.isfinite(value)]
        if wrong:
            yield f"{key} was {wrong[0][1]} at kimg {wrong[0][0]:,.10g}, {len(wrong)} times in all"
    waits = [value for _, value in run.finite("throughput/data_wait_percent")]
    waits = waits[len(waits) // 2 :]  # warm
    if waits and sum(waits) / len(waits) > WAIT_PERCENT:
        mean = sum(waits) / len(waits)
        yield f"a step waits {mean:.0f}% of its time for data: raise data.num_workers, or use a faster disk"
    for key in run.curves:
        points = run.finite(key)
        if key.startswith("val/fd_") and points:
            kimg, best = min(points, key=lambda point: point[1])
            if points[-1][1] > WORSE * best:
                yield f"{key} ended at {points[-1][1]:.5g}, worse than {best:.5g} at kimg {kimg:,.10g}"
    if "skipped" in run.panel:
        yield f"skipped {run.panel['skipped']}"
    if len(run.starts) > 1:
        yield f"started {len(run.starts)} times: {', '.join(start['time'] for start in run.starts)}"
    if "resumed from" in run.panel:
        yield f"resumed from {run.panel['resumed from']}"
    try:
        _ = run.figures
    except UserError as error:
        yield str(error)
