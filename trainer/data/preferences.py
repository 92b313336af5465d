"""A file that says which of two pictures is better: {"better": "a.png", "worse": "b.png"} a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.data.build import CORRUPT, fit
from trainer.data.files import open_image
from trainer.errors import UserError
from trainer.size import Resolution

FEWEST = 10  # pairs
EXPECTED = 'expected {"better": "a.png", "worse": "b.png"}'


def read(path: str | Path, resolution: Resolution) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (P, 3, H, W) uint8 at this resolution, and numbers (M,) of the better and of the worse ones of pairs.

    Names are paths beside the file, or absolute. UserError, with the line, for what is no pair of pictures.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"objective.reward.pairs={path}: expected a file of lines {EXPECTED.removeprefix('expected ')}")
    numbers: dict[str, int] = {}
    pictures: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for place, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        better, worse = pair(line, f"{path}, line {place}")
        for name in (better, worse):
            if name not in numbers:
                numbers[name] = len(pictures)
                pictures.append(picture(path.parent / Path(name).expanduser(), resolution, f"{path}, line {place}"))
        pairs.append((numbers[better], numbers[worse]))
    if len(pairs) < FEWEST:
        raise UserError(f"objective.reward.pairs={path}: {len(pairs)} pairs, expected at least {FEWEST}")
    first, second = torch.tensor(pairs).unbind(1)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), first, second


def pair(line: str, where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
        better, worse = record["better"], record["worse"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: {EXPECTED}, found {line.strip()[:80]}") from error
    if not (isinstance(better, str) and isinstance(worse, str)) or better == worse:
        raise UserError(f"{where}: {EXPECTED}, two pictures, found {line.strip()[:80]}")
    return better, worse


def picture(file: Path, resolution: Resolution, where: str) -> np.ndarray:
    """(H, W, 3) uint8, as pictures of training are decoded."""
    try:
        return np.asarray(fit(open_image(file, resolution), resolution))
    except CORRUPT as error:
        raise UserError(f"{where}: {file} is no picture that can be read") from error
