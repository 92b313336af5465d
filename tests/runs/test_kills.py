"""Runs that are killed again and again, at any moment and in any way, end with the bits of one that never was.

A sample that changes from day to day; KILLS=50 is all that docs/faults.md speaks of.
"""

from __future__ import annotations

import csv
import datetime
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.test_resume import SMALL, STEPS, final, finish, same, start
from trainer.runs import checkpoint

KILLS = int(os.environ.get("KILLS", 8))
SEED = os.environ.get("KILLS_SEED", datetime.date.today().isoformat())
CASES = [(workers, ranks) for workers in (0, 2) for ranks in (1, 2)]
MEASURED = [
    *(f"callbacks.evaluation.{key}" for key in ("times=8", "num_images=600", "num_references=20")),
    *("callbacks.evaluation.backbone.resolution=16", "callbacks.samples.times=8"),
    "callbacks.checkpoint.every_minutes=99",
]
SMALL = [word for word in SMALL if word not in ("callbacks.evaluation=null", "callbacks.samples.times=2")] + MEASURED
WAYS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)


def overrides(workers: int, ranks: int) -> list[str]:
    return [*SMALL, f"data.num_workers={workers}", "gpus_per_node=0", f"trainer.devices={ranks}"]


def moments(run: Path, draw: random.Random) -> dict[str, tuple[Callable[[], object], float]]:
    """name of a moment -> what is seen when it begins, and seconds that it lasts about."""
    saved, drawn = set(run.glob("checkpoints/*.ckpt")), set(run.glob("samples/kimg*.png"))
    left = set(run.glob("checkpoints/.*.tmp"))  # by a kill before
    last = run / f"checkpoints/kimg{STEPS * 8 / 1000:010.3f}.ckpt"
    return {
        "start-up": (lambda: True, 12.0),
        "a step": (lambda: set(run.glob("checkpoints/*.ckpt")) - saved, 0.3),
        "a save": (lambda: set(run.glob("checkpoints/.*.tmp")) - left, 0.02),
        "an evaluation": (lambda: set(run.glob("samples/kimg*.png")) - drawn, 0.6),
        "the end": (last.exists, 2.0),
    }


def strike(folder: Path, run: Path, moment: str, way: int, draw: random.Random, *command: str) -> str:
    """Starts or resumes the run and strikes all its processes; how it went."""
    seen, lasts = moments(run, draw)[moment]
    process = start(folder, *command)
    deadline = time.monotonic() + 300
    while process.poll() is None and not seen():
        assert time.monotonic() < deadline, (folder / "output.txt").read_text()[-5000:]
        time.sleep(0.002)
    time.sleep(draw.uniform(0, lasts))
    struck = process.poll() is None
    if struck:
        os.killpg(process.pid, way)
    code = process.wait(timeout=120)
    expected = {0} if not struck else {-way} if way == signal.SIGKILL else {128 + way, 0}
    if struck and (run / "end.json").exists() and '"finished"' in (run / "end.json").read_text():
        expected |= {0, -way}  # it ended between the look and the blow, or Python had put its handlers back by then
    if moment == "start-up":
        expected.add(-way)  # or has none yet, in the first
    assert code in expected, f"{moment}, {way}: exit {code}\n{(folder / 'output.txt').read_text()[-5000:]}"
    return f"{moment}, {signal.Signals(way).name}: {f'exit {code}' if struck else 'had ended'}"


def measured(run: Path) -> dict[str, object]:
    """What is left of the measurements: rows of the log, the best and its checkpoint."""
    with open(run / "metrics.csv", newline="") as file:
        rows = [(row["step"], row.get("val/fd_effnet")) for row in csv.DictReader(file)]
    best = checkpoint.read(run / "checkpoints/best.ckpt")
    alerts = [state for key, state in final_callbacks(run).items() if "Alerts" in key]
    return {"rows": rows, "best": (best["images_seen"], best["measured"]), "alerts": alerts}


def final_callbacks(run: Path) -> dict[str, object]:
    return dict(checkpoint.read(run / f"checkpoints/kimg{STEPS * 8 / 1000:010.3f}.ckpt")["callbacks"])


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "ranks"), CASES)
def test_random_kills(tmp_path, workers, ranks):
    draw = random.Random(f"{SEED} {workers} {ranks}")
    case = CASES.index((workers, ranks))
    count = KILLS // len(CASES) + (case < KILLS % len(CASES))
    whole = overrides(workers, ranks)
    finish(tmp_path, *whole, "run_dir=whole")
    at_the_end = draw.randrange(1 + count // 4) + (count > 1)
    chosen = [draw.choice(("start-up", "a step", "a save", "an evaluation")) for _ in range(count - at_the_end)]
    run = tmp_path / "run"
    for number, moment in enumerate(chosen + ["the end"] * at_the_end, start=1):
        resumed = any(run.glob("checkpoints/*.ckpt"))
        command = [f"resume={run}"] if resumed else [*whole, f"run_dir={run}"]
        told = strike(tmp_path, run, moment, draw.choice(WAYS), draw, *command)
        newest = max((path.name for path in run.glob("checkpoints/kimg*.ckpt")), default="no checkpoint")
        print(f"{workers} workers, {ranks} ranks, {number} of {count}: {told}; {newest}", flush=True)
    finish(tmp_path, *([f"resume={run}"] if any(run.glob("checkpoints/*.ckpt")) else [*whole, f"run_dir={run}"]))
    same(final(run), final(tmp_path / "whole"))
    assert measured(run) == measured(tmp_path / "whole")
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
