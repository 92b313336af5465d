"""Images with the same bits at any batch size: kernels choose another order of summation for few rows.

A batch of 1, 2, 4 or 8 costs what it holds: only layers that would round otherwise than in a batch of 16 see their rows
several times (a single row of a linear layer, some convolutions; measured for network, machine and threads at hand).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition

FULL = 16  # from this many rows on, kernels were found to keep to one order of summation
TOKENS = 16  # captions are cut to a multiple of this: lanes of a vector register, over which a softmax adds up

Draw = Callable[[Tensor, Condition], Tensor]
Forward = Callable[..., Tensor]


class SameBits:
    """`draw`, but row i of the result has the bits it has in a batch of 16, in any company, without pads of no use.

    network: whose layers `draw` calls. The first batch of a size is drawn as a full one, too; if the bits differ all
    the same, or the network needs all tokens, that size is always drawn so. Where weights of which copies were made
    change (`Packed`), it begins anew; what else was measured is taken to hold for any weights.
    """

    def __init__(self, network: nn.Module, draw: Draw):
        self.network, self.draw = network, draw
        self.known: dict[tuple[int, ...], Mapping[nn.Module, Forward] | None] = {}

    def __call__(self, latents: Tensor, condition: Condition) -> Tensor:
        count, tokens = len(latents), condition.mask.shape[1]
        size = rounded(count)
        longest = 1 + max(i for row in condition.mask.tolist() for i, token in enumerate(row) if token)
        length = min(tokens, -(-longest // TOKENS) * TOKENS)
        if size >= FULL and length == tokens:
            return self.draw(*filled(latents, condition, size))[:count]
        key = size, length, tokens, torch.get_num_threads()
        if key not in self.known or outdated(self.known[key]):
            whole, self.known[key] = self._learn(latents, condition, size, length)
            return whole[:count]
        if (forwards := self.known[key]) is None:
            return self.draw(*filled(latents, condition, max(size, FULL)))[:count]
        with called_by(forwards):
            return self.draw(*filled(latents, cut(condition, length), size))[:count]

    def _learn(
        self, latents: Tensor, condition: Condition, size: int, length: int
    ) -> tuple[Tensor, Mapping[nn.Module, Forward] | None]:
        """A full batch, and how layers are called in one of `size`; None if that does not give its bits."""
        whole = self.draw(*filled(latents, condition, max(size, FULL)))
        short = cut(condition, length)
        try:
            forwards: dict[nn.Module, Forward] = {}
            if size < FULL:
                with ExitStack() as hooks:
                    for layer in leaves(self.network):
                        hook = layer.register_forward_hook(functools.partial(as_in_full, forwards, size))
                        hooks.callback(hook.remove)
                    self.draw(*filled(latents, short, FULL))
            with called_by(forwards):
                small = self.draw(*filled(latents, short, size))
        except Exception:  # other shapes than a full batch's are refused, in as many ways as there are runtimes
            return whole, None
        return whole, forwards if torch.equal(small, whole[:size]) else None


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


def as_in_full(
    forwards: dict[nn.Module, Forward], size: int, layer: nn.Module, given: tuple[Any, ...], out: Any
) -> None:
    """Hook on a full batch: notes how a layer is called with `size` rows to give their bits, and soon."""
    if not all(isinstance(each, Tensor) and len(each) == FULL for each in (*given, out)):
        return
    few = [each[:size] for each in given]
    if layer not in forwards and Packed.fits(layer, few[0]):
        forward = Packed(layer, few[0])
        if torch.equal(forward(*few), out[:size]):
            forwards[layer] = forward
            return
    enough = (rows for rows in (1, 2, 4, 8) if rows >= size and layer not in forwards)
    same = (n for n in enough if torch.equal(layer.forward(*(each[:n] for each in given))[:size], out[:size]))
    rows = next(same, FULL)
    if rows > size:
        forwards[layer] = functools.partial(with_rows, layer.forward, rows)


class Packed:
    """A layer with its weights as oneDNN reads them for such a batch, a copy that else each call makes.

    It takes half of the time of one row. For frozen weights, since optimizers may write without a trace.
    """

    def __init__(self, layer: nn.Module, like: Tensor):
        assert isinstance(layer, nn.ConvTranspose2d)
        self.layer, self.version = layer, version(layer.weight)
        self.how = [*layer.padding], [*layer.output_padding], [*layer.stride], [*layer.dilation], layer.groups
        prepare = torch.ops.mkldnn._reorder_convolution_transpose_weight
        self.weight = prepare(layer.weight, *self.how, [*like.shape])

    @staticmethod
    def fits(layer: nn.Module, like: Tensor) -> bool:
        if not isinstance(layer, nn.ConvTranspose2d) or not torch.backends.mkldnn.is_available():
            return False
        frozen = not layer.weight.requires_grad and not layer.weight.is_inference()
        return frozen and like.dtype == layer.weight.dtype == torch.float32

    def __call__(self, x: Tensor) -> Tensor:
        convolution = torch.ops.mkldnn._convolution_transpose_pointwise
        return convolution(x, self.weight, self.layer.bias, *self.how, "none", [], "")


def version(weight: Tensor) -> tuple[int, ...]:
    """Another one after a write to a frozen tensor (not through `.data`), on other memory, or where it may train."""
    return weight._version, weight.data_ptr(), weight.requires_grad


def outdated(forwards: Mapping[nn.Module, Forward] | None) -> bool:
    return any(isinstance(f, Packed) and f.version != version(f.layer.weight) for f in (forwards or {}).values())


@contextmanager
def called_by(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Within it, layers are called so."""
    for layer, forward in forwards.items():
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in forwards:
            del vars(layer)["forward"]


def with_rows(forward: Forward, rows: int, *given: Tensor) -> Tensor:
    """Both counts are powers of two: the given rows are there more than once."""
    count = len(given[0])
    return forward(*(torch.cat([each] * (rows // count)) for each in given))[:count]
