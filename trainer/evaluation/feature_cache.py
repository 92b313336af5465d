"""Features of references, measured once and kept beside the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from trainer.evaluation.protocol import Study, place
from trainer.process.kept import read, write


def cached_features(
    study: Study, backbone: Any, kind: str, cache_dir: str | Path, make: Callable[[], Tensor]
) -> Tensor:
    """What `make` returns for the references of a study, from the cache if it is there; the same on all ranks.

    The file is named after all that the features depend on, the pixels included: never stale, whatever the source. It
    is rank 0 that looks and writes, so a cache on the disk of one node will do.
    """
    found: list[Any] = [None]
    if place()[0] == 0:
        file = Path(cache_dir).expanduser() / "features" / f"{backbone.name}-{kind}-{fingerprint(study, backbone)}.npy"
        found = [read(file)]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    if found[0] is not None:
        return found[0]
    made = make()
    if place()[0] == 0:
        write(file, made, "the features of the references")
    return made


def fingerprint(study: Study, backbone: Any) -> str:
    images = study.references.images
    content = hashlib.sha256(f"{backbone.sha256} {backbone.width} {backbone.resizer} {images.shape}".encode())
    for number in study.reference_index:
        content.update(np.ascontiguousarray(images[number]).data)
    return content.hexdigest()[:16]
