"""Run folders as a training leaves them, made by hand."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer.runs import results

PROTOCOL = {"backbone": "inception", "sha256": "f" * 64, "num_images": 2000, "split": "heldout"}
ENVIRONMENT = """2026-01-31 12:00:00 +0000
command   python -m trainer +experiment=small seed=0
commit    0123abc
packages  numpy==2.4.6 torch==2.13.0 zipp==3.0

"""


@pytest.fixture
def protocol() -> dict[str, Any]:
    return PROTOCOL


@pytest.fixture
def table() -> Callable[[float], list[dict[str, float]]]:
    return rows


def rows(end: float) -> list[dict[str, float]]:
    """40 reports of a training and 4 measurements, which end at `end`."""
    found: list[dict[str, float]] = []
    for i in range(1, 41):
        row = {"step": i, "progress/kimg": i / 10, "generator/loss": 1 / i, "discriminator/loss": 2 - i / 40}
        row |= {"throughput/images_per_second": 100.0 + i, "throughput/data_wait_percent": 0.5}
        row |= {"throughput/device_minutes": i / 5}
        found.append(row | ({"val/fd_effnet": {10: 900, 20: 300, 30: 310, 40: end}[i]} if i % 10 == 0 else {}))
    return found


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def run(
        name: str = "one",
        seed: int = 0,
        end: dict[str, str] | None = None,
        fid: float | None = None,
        protocol: dict[str, Any] = PROTOCOL,
        table: list[dict[str, float]] | None = None,
        starts: int = 1,
    ) -> Path:
        folder = tmp_path / "outputs" / name
        (folder / "samples").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        config = f"name: small\nkimg: 4.0\nseed: {seed}\nrun_dir: {folder}\ndata: {{size: 32, seed: %s}}\n"
        (folder / "config.yaml").write_text(config % seed)
        (folder / "composed.yaml").write_text(config % "'${seed}'")
        (folder / "environment.txt").write_text(ENVIRONMENT * starts)
        (folder / "README.md").write_text(
            "# small\n\n| | |\n|---|---|\n| parameters | generator 1.2M |\n| data | <b> |\n"
        )
        table = rows(305) if table is None else table
        columns = list(dict.fromkeys(key for row in table for key in row))
        lines = [",".join(columns), *(",".join(str(row.get(key, "")) for key in columns) for row in table)]
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
        for kimg in (2.0, 4.0):
            with zipfile.ZipFile(folder / "checkpoints" / f"kimg{kimg:010.3f}.ckpt", "w") as archive:
                archive.writestr("checkpoint/data.pkl", "what a report does not read")
            Image.new("RGB", (1100, 700), (round(50 * kimg), 0, 0)).save(folder / "samples" / f"kimg{kimg:010.3f}.png")
        if end:
            (folder / "end.json").write_text(json.dumps({"time": "2026-01-31 15:02:03 +0200", **end}))
        if fid is not None:
            results.add(folder, [results.Figure("fid", fid, "lower", "kimg000004.000.ckpt", 4.0, protocol, 0.25)])
        return folder

    return run
