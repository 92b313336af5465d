"""What is timed is what a user gets: pixels of latents and conditions, by the sampler."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.comparison.latency import Network
from trainer.exports.drawing import Drawing
from trainer.sampling.sampler import Sampler


def by_sampler(objective: Any, fixed: bool = False) -> Network:
    """(N, 3, H, W) uint8 of N latents and conditions, as a user gets them who asks for batch_size=N.

    fixed: as of `Sampler`.
    """
    sampler = functools.cache(lambda size: Sampler(objective, no_captions, size, fixed))

    def draw(latents: Tensor, condition: Condition) -> Tensor:
        images: Tensor = sampler(len(latents)).draw(latents, condition)
        return images

    return draw


def drawn(network: nn.Module) -> Network:
    """The same of a network alone."""
    return by_sampler(Drawing(network))


def no_captions(captions: Sequence[str]) -> Condition:
    raise AssertionError("conditions are given")
