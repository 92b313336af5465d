"""The random state of a process: for whatever does not draw from `trainer.noise`, as dropout."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of torch, its GPU if there is one, numpy and python, as tensors and numbers: no code."""
    kind, keys, *numpy_rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, np.int64)), *numpy_rest],
        "python": [version, torch.tensor(words), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets what `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kind, keys, *numpy_rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *numpy_rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
