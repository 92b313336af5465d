"""Runs on this disk, for notebooks that take the newest."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import UserError

DEEPEST = 4  # outputs/sweep/TIME/0


def newest(count: int = 1, folder: str | Path = "outputs") -> list[Path]:
    """The newest `count` runs with a checkpoint in a folder, the newest last. UserError if there are not so many."""
    root = Path(folder).expanduser()
    configs = [file for depth in range(DEEPEST) for file in root.glob("*/" * depth + "config.yaml")]
    runs = [file for file in configs if any(file.parent.glob("checkpoints/*.ckpt"))]
    if len(runs) < count:
        raise UserError(
            f"{root.absolute()} has {len(runs)} runs with a checkpoint, {count} needed here: train with "
            f"`python -m trainer experiment=cgan_shapes`, or say newest({count}, FOLDER) with where yours are"
        )
    return [file.parent for file in sorted(runs, key=lambda file: file.stat().st_mtime)[len(runs) - count :]]
