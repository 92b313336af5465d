"""Arrays that are measured once and kept on the disk, whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.process.progress import say


def read(file: Path) -> Tensor | None:
    """What `write` has left, None where there is nothing whole."""
    try:
        return torch.from_numpy(np.load(file))
    except (OSError, ValueError, EOFError):
        return None


def write(file: Path, content: Tensor, what: str) -> None:
    """what: its name in the line that tells a full or read-only disk, after which it is measured again each time."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            np.save(stream, content.numpy())
        os.replace(temporary, file)
    except OSError as error:
        say(f"{file}: {error.strerror}; {what} are not kept")
        with suppress(OSError):
            temporary.unlink()
