"""Bytes that autograd keeps of a forward pass for gradients: what a batch needs beside weights and their states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Within it, `total` counts the bytes of every storage that is kept, once; not those of `modules`' weights."""

    def __init__(self, module: nn.Module) -> None:
        self.known = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
        self.total = 0
        super().__init__(self.keep, lambda kept: kept)

    def __enter__(self) -> Saved:  # type: ignore[override]
        super().__enter__()
        return self

    def keep(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:  # its place, which a tensor without values has, too
            self.known.add(storage._cdata)
            self.total += storage.nbytes()
        return tensor.detach()  # autograd knows where it came from; the tensor itself would keep itself alive
