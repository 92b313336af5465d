"""Images with the same bits at any batch size: kernels choose another order of summation for few rows.

A batch of 1, 2, 4 or 8 costs what it holds: only those layers see their rows several times that would round otherwise
than in a batch of 16 (a single row of a linear layer, some convolutions; measured for the network, the machine and its
threads at hand).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.batch import Condition

FULL = 16  # from this many rows on, kernels were found to keep to one order of summation
TOKENS = 16  # captions are cut to a multiple of this: lanes of a vector register, over which a softmax adds up

Draw = Callable[[Tensor, Condition], Tensor]


class SameBits:
    """`draw`, but row i of the result has the bits it has in a batch of 16, in any company, without pads of no use.

    network: whose layers `draw` calls. Its weights must not change from then on. The first batch of a size is drawn as
    a full one, too; if the bits differ all the same, or the network needs all tokens, that size is always drawn so.
    """

    def __init__(self, network: nn.Module, draw: Draw):
        self.network, self.draw = network, draw
        self.known: dict[tuple[int, ...], Mapping[nn.Module, int] | None] = {}

    def __call__(self, latents: Tensor, condition: Condition) -> Tensor:
        count, tokens = len(latents), condition.mask.shape[1]
        size = rounded(count)
        longest = int(np.flatnonzero(condition.mask.numpy().any(0))[-1]) + 1
        length = min(tokens, -(-longest // TOKENS) * TOKENS)
        if size >= FULL and length == tokens:
            return self.draw(*filled(latents, condition, size))[:count]
        key = size, length, tokens, torch.get_num_threads()
        if key not in self.known:
            whole, self.known[key] = self._learn(latents, condition, size, length)
            return whole[:count]
        if (layers := self.known[key]) is None:
            return self.draw(*filled(latents, condition, max(size, FULL)))[:count]
        with rows_of(layers):
            return self.draw(*filled(latents, cut(condition, length), size))[:count]

    def _learn(
        self, latents: Tensor, condition: Condition, size: int, length: int
    ) -> tuple[Tensor, Mapping[nn.Module, int] | None]:
        """A full batch, and the rows that each layer must see in one of `size`; None if that does not suffice."""
        whole = self.draw(*filled(latents, condition, max(size, FULL)))
        short = cut(condition, length)
        try:
            layers: dict[nn.Module, int] = {}
            if size < FULL:
                with ExitStack() as hooks:
                    for layer in leaves(self.network):
                        hook = layer.register_forward_hook(functools.partial(least_rows, layers, size))
                        hooks.callback(hook.remove)
                    self.draw(*filled(latents, short, FULL))
            with rows_of(layers):
                small = self.draw(*filled(latents, short, size))
        except Exception:  # other shapes than a full batch's are refused, in as many ways as there are runtimes
            return whole, None
        return whole, layers if torch.equal(small, whole[:size]) else None


def rounded(count: int) -> int:
    """1, 2, 4, 8 or a multiple of 16: the next that holds `count` rows."""
    return 1 << (count - 1).bit_length() if count < FULL else -(-count // FULL) * FULL


def filled(latents: Tensor, condition: Condition, size: int) -> tuple[Tensor, Condition]:
    """`size` rows, those behind the given ones are copies of the first."""
    if len(latents) == size:
        return latents, condition
    index = [*range(len(latents)), *[0] * (size - len(latents))]
    return latents[index], condition.rows(index)


def cut(condition: Condition, length: int) -> Condition:
    """The first `length` tokens of each caption."""
    return Condition(condition.tokens[:, :length], condition.mask[:, :length], condition.pooled)


def leaves(network: nn.Module) -> Iterator[nn.Module]:
    """Layers that hold weights and no other layers."""
    for module in network.modules():
        held = next(module.parameters(False), None) is not None or next(module.buffers(False), None) is not None
        if held and next(module.children(), None) is None and "forward" not in vars(module):
            yield module


def least_rows(layers: dict[nn.Module, int], size: int, layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
    """Hook on a full batch: notes a layer that needs more than `size` rows to give their bits."""
    if all(isinstance(each, Tensor) and len(each) == FULL for each in (*given, out)):
        enough = (rows for rows in (1, 2, 4, 8) if rows >= size)
        same = (n for n in enough if torch.equal(layer.forward(*(each[:n] for each in given))[:size], out[:size]))
        rows = next(same, FULL)
        if rows > size:
            layers[layer] = max(rows, layers.get(layer, 0))


@contextmanager
def rows_of(layers: Mapping[nn.Module, int]) -> Iterator[None]:
    """Within it, each of the layers sees at least so many rows."""
    for layer, rows in layers.items():
        vars(layer)["forward"] = functools.partial(with_rows, layer.forward, rows)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def with_rows(forward: Callable[..., Tensor], rows: int, *given: Tensor) -> Tensor:
    """Both counts are powers of two: the given rows are there more than once."""
    count = len(given[0])
    return forward(*(torch.cat([each] * (rows // count)) for each in given))[:count]
