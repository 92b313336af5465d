"""What a picture shows, in the words of the data that a generator learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from trainer.data.index import open_reader
from trainer.data.module import default_cache_dir
from trainer.data.source import digest
from trainer.editing.edits import Judge
from trainer.errors import UserError
from trainer.process import caches, kept
from trainer.process.progress import Progress

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline

MOST = 20_000  # captions that are compared, evenly spread over those of the data
AT_ONCE = 256


def of_data(pipe: Pipeline) -> list[str]:
    """At most 20,000 distinct captions of the data of a run, training and held out. UserError where they are gone."""
    node = pipe.config.get("data") or {}
    try:
        if not node.get("source"):
            raise UserError(f"{pipe.path} does not say what data it learned from")
        source = instantiate(node["source"], _convert_="all")
        cache_dir, decoded = node.get("cache_dir") or default_cache_dir(), node.get("decoded", True)
        captions = open_reader(source, node["resolution"], cache_dir, decoded).captions
    except (UserError, InstantiationException) as error:
        reason = error.__cause__ if isinstance(error, InstantiationException) else error
        raise UserError(f"{reason}; or say what the picture shows: caption='a red star'") from error
    chosen = np.linspace(0, len(captions) - 1, min(MOST, len(captions)), dtype=np.int64)
    return [captions[i] for i in chosen.tolist()]


def nearest(judge: Judge, image: Tensor, captions: Sequence[str]) -> str:
    """The caption whose vector has the greatest cosine with that of an image (1, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        own = judge.images(image)
        return captions[int(F.cosine_similarity(own, vectors(judge, captions).to(own), dim=1).argmax())]


def vectors(judge: Judge, captions: Sequence[str]) -> Tensor:
    """(M, D) of captions by a judge, kept under the cache by the digests of both."""
    file = caches.root() / "directions" / f"captions-{digest(judge.sha256, *captions)}.npy"
    found = kept.read(file)
    if found is None:
        progress, parts = Progress("captions: read", "captions", len(captions)), []
        for start in range(0, len(captions), AT_ONCE):
            parts.append(judge.captions(captions[start : start + AT_ONCE]).float().cpu())
            progress(min(start + AT_ONCE, len(captions)))
        found = torch.cat(parts)
        kept.write(file, found, "the captions of the data")
    return found
