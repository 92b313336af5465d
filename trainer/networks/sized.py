"""Networks that draw and read pictures of other sizes than that they were made for, as trained by `data.buckets`.

The maps of another size are halved as often. What has one weight for each place of the smallest map, where generators
begin and discriminators end, is resized to it, or it to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.size import Resolution, Size


def fitted(x: Tensor, size: Size) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinearly; itself where it is of that size."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def maps_at(canvas: Size | None, sizes: list[Size]) -> list[Size]:
    """Sizes of the maps, small to large, of what has `sizes` of its own: those, or for a picture of size `canvas`."""
    return sizes if canvas is None else [canvas.over(1 << i) for i in reversed(range(len(sizes)))]


def takes_any_size(network: nn.Module) -> bool:
    """Whether it, or all of what it is put together from, says so by an attribute `any_size`."""
    if hasattr(network, "any_size"):
        return bool(network.any_size)
    parts = [*network.children()]
    return bool(parts) and next(network.parameters(False), None) is None and all(map(takes_any_size, parts))


def canvases(modules: Iterable[nn.Module]) -> list[Any]:
    """What draws at the size of its attribute `canvas`: None is the resolution that it was made for."""
    return [module for module in modules if hasattr(module, "canvas")]


def check_canvas(network: Any, resolution: Resolution) -> Size:
    """UserError where a generator cannot draw pictures of this resolution."""
    size = Size.of(resolution)
    own = next((module.sizes for module in canvases(network.modules()) if hasattr(module, "sizes")), None)
    if own is None:
        raise UserError(f"resolution={resolution}: {type(network).__name__} draws one size; leave it out")
    if min(size) < 16 or min(size) >> (len(own) - 1) < 1:
        least = max(16, 1 << (len(own) - 1))
        raise UserError(f"resolution={resolution}: expected sides from {least} pixels, of a generator of {own[-1]}")
    return size


@contextmanager
def drawing(canvas: Size | None, modules: Iterable[Any]) -> Iterator[None]:
    """Within it `canvases` draw pictures of this size."""
    for module in modules:
        module.canvas = canvas
    try:
        yield
    finally:
        for module in modules:
            module.canvas = None
