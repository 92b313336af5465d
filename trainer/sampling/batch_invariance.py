"""Images with the same bits at any batch size where that is cheap: kernels add up few rows in another order.

A batch of 1, 2, 4 or 8 costs what it holds: only layers that would round otherwise than in a batch of 16 see their rows
several times (a single row of a linear layer, some convolutions; tried for network, machine and threads at hand). Where
that is more than a tenth of the work, or some other operation rounds otherwise, images are the same to a grey level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition

FULL = 16  # from this many rows on, kernels were found to keep to one order of summation
TOKENS = 16  # captions are cut to a multiple of this: lanes of a vector register, over which a softmax adds up

MOST = 0.1  # of the work of a batch, in multiply-adds: what its bits may cost more
READING = 16  # multiply-adds in the time that a weight is read from memory: fewer rows of a linear layer save nothing
GREY_LEVEL = 1 / 127.5  # of images in [-1, 1]

Draw = Callable[[Tensor, Condition], Tensor]
Forward = Callable[..., Tensor]


@dataclass
class Way:
    """How a size is drawn. forwards: calls of some layers, or None for a full batch of whole captions.

    length: tokens that captions are cut to. exact: with the bits of a full batch.
    """

    forwards: Mapping[nn.Module, Forward] | None
    length: int
    exact: bool = True


class SameBits:
    """`draw`, but row i of the result has the bits it has in a batch of 16, in any company, without pads of no use.

    network: whose layers `draw` calls. always: whatever it costs. Else a size whose bits cost more than `MOST` has the
    same images to a grey level, and `exact` says so. That hangs on network, kernels and threads and on no clock. A size
    that is further off, or that the network refuses, is drawn as a full batch. Where weights of which copies were made
    change (`Packed`), it begins anew; what else was found is taken to hold for any weights.
    """

    def __init__(self, network: nn.Module, draw: Draw, always: bool = False):
        self.network, self.draw, self.always = network, draw, always
        self.known: dict[tuple[int, ...], Way] = {}

    @property
    def exact(self) -> bool:
        """Of all sizes that were drawn so, with as many threads as now."""
        now = self.always, torch.get_num_threads()
        return all(way.exact for key, way in self.known.items() if key[-2:] == now)

    def __call__(self, latents: Tensor, condition: Condition) -> Tensor:
        count, tokens = latents.shape[0], condition.mask.shape[1]
        size = padded_batch_size(count)
        length = min(tokens, -(-condition.longest // TOKENS) * TOKENS)
        if size >= FULL and length == tokens:
            return self.draw(*pad_rows(latents, condition, size))[:count]
        key = size, length, tokens, self.always, torch.get_num_threads()
        if key not in self.known or is_outdated(self.known[key].forwards):
            images, self.known[key] = self._learn(latents, condition, size, length)
            return images[:count]
        way = self.known[key]
        if way.forwards is None:
            return self.draw(*pad_rows(latents, condition, max(size, FULL)))[:count]
        with patched_forwards(way.forwards):
            return self.draw(*pad_rows(latents, condition.cut(way.length), size))[:count]

    def _learn(self, latents: Tensor, condition: Condition, size: int, length: int) -> tuple[Tensor, Way]:
        """The images, and how others of this size are drawn."""
        whole = self.draw(*pad_rows(latents, condition, max(size, FULL)))
        tokens = condition.mask.shape[1]
        lengths = [length, tokens] if size < FULL and length < tokens else [length]  # a program may be of one length
        for each in lengths:
            with suppress(Exception):  # other shapes are refused, in as many ways as there are runtimes
                if found := self._smaller(latents, condition.cut(each), size, whole):
                    return found
        return whole, Way(None, tokens)

    def _smaller(self, latents: Tensor, condition: Condition, size: int, whole: Tensor) -> tuple[Tensor, Way] | None:
        """Of `size` rows of these captions, where that draws what is in `whole`."""
        layers, length = Layers(size), condition.mask.shape[1]
        if size < FULL:
            with ExitStack() as hooks:
                for layer in leaves(self.network):
                    hooks.callback(layer.register_forward_hook(layers.as_in_full).remove)
                self.draw(*pad_rows(latents, condition, FULL))
        if self.always or layers.extra <= MOST * layers.work:
            with patched_forwards(layers.forwards):
                small = self.draw(*pad_rows(latents, condition, size))
            if torch.equal(small, whole[:size]):
                return whole, Way(layers.forwards, length)
        if self.always:
            return None
        cheap = {layer: forward for layer, forward in layers.forwards.items() if isinstance(forward, Packed)}
        with patched_forwards(cheap):
            small = self.draw(*pad_rows(latents, condition, size))
        if not (small - whole[:size]).abs().max() < GREY_LEVEL:
            return None
        return small, Way(cheap, length, torch.equal(small, whole[:size]))


def padded_batch_size(count: int) -> int:
    """1, 2, 4, 8 or a multiple of 16: the next that holds `count` rows."""
    return 1 << (count - 1).bit_length() if count < FULL else -(-count // FULL) * FULL


def pad_rows(latents: Tensor, condition: Condition, size: int) -> tuple[Tensor, Condition]:
    """`size` rows, those behind the given ones are copies of the first."""
    if latents.shape[0] == size:
        return latents, condition
    index = [*range(len(latents)), *[0] * (size - len(latents))]
    return latents[index], condition.rows(index)


def leaves(network: nn.Module) -> Iterator[nn.Module]:
    """Layers that hold weights and no other layers."""
    for module in network.modules():
        held = next(module.parameters(False), None) is not None or next(module.buffers(False), None) is not None
        if held and next(module.children(), None) is None and "forward" not in vars(module):
            yield module


@dataclass
class Layers:
    """Of a network that draws `size` rows: how to call those that else round otherwise, and what that costs.

    work, extra: multiply-adds of all layers without it, and what it adds.
    """

    size: int
    forwards: dict[nn.Module, Forward] = field(default_factory=dict)
    work: float = 0
    extra: float = 0

    def as_in_full(self, layer: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        """Hook on a full batch."""
        if not all(isinstance(each, Tensor) and len(each) == FULL for each in (*given, out)):
            return
        size, plain = self.size, multiply_adds(layer, given[0], out, self.size)
        self.work += plain
        few = [each[:size] for each in given]
        packed = None if layer in self.forwards else Packed.made(layer, few[0])
        if packed and torch.equal(packed(*few), out[:size]):
            self.forwards[layer] = packed
            return
        enough = (rows for rows in (1, 2, 4, 8) if rows >= size and layer not in self.forwards)
        same = (n for n in enough if torch.equal(layer.forward(*(each[:n] for each in given))[:size], out[:size]))
        rows = next(same, FULL)
        if rows > size:
            self.forwards[layer] = functools.partial(with_rows, layer.forward, rows)
            self.extra += multiply_adds(layer, given[0], out, rows) - plain


def multiply_adds(layer: nn.Module, given: Tensor, out: Tensor, rows: int) -> float:
    """In `rows` rows, or what reading the weights takes if that is more; each weight counts at each place of a map."""
    weights = sum(each.numel() for each in (*layer.parameters(False), *layer.buffers(False)))
    places = min(each[0, 0].numel() if each.dim() > 3 else each[0, ..., 0].numel() for each in (given, out))
    return weights * max(rows * places, READING)


class Packed:
    """A layer with its weights as oneDNN reads them for such a batch, a copy that else each call makes.

    For frozen weights, since optimizers may write without a trace. By operators of PyTorch's own use: a build that
    lacks them, or has others, does without.
    """

    def __init__(self, layer: nn.Module, like: Tensor):
        assert isinstance(layer, nn.ConvTranspose2d)
        self.layer, self.version = layer, version(layer.weight)
        self.how = [*layer.padding], [*layer.output_padding], [*layer.stride], [*layer.dilation], layer.groups
        prepare = torch.ops.mkldnn._reorder_convolution_transpose_weight
        self.weight = prepare(layer.weight, *self.how, [*like.shape])

    @staticmethod
    def made(layer: nn.Module, like: Tensor) -> Packed | None:
        """None where it cannot be had."""
        if not isinstance(layer, nn.ConvTranspose2d) or not torch.backends.mkldnn.is_available():
            return None
        frozen = not layer.weight.requires_grad and not layer.weight.is_inference()
        if not frozen or not like.dtype == layer.weight.dtype == torch.float32:
            return None
        try:
            packed = Packed(layer, like)
            packed(like)
        except Exception:  # no such operator, other arguments, other kernels
            return None
        return packed

    def __call__(self, x: Tensor) -> Tensor:
        convolution = torch.ops.mkldnn._convolution_transpose_pointwise
        return convolution(x, self.weight, self.layer.bias, *self.how, "none", [], "")


def version(weight: Tensor) -> tuple[int, ...]:
    """Another one after a write to a frozen tensor (not through `.data`), on other memory, or where it may train."""
    return weight._version, weight.data_ptr(), weight.requires_grad


def is_outdated(forwards: Mapping[nn.Module, Forward] | None) -> bool:
    return any(isinstance(f, Packed) and f.version != version(f.layer.weight) for f in (forwards or {}).values())


@contextmanager
def patched_forwards(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Within it, layers are called so."""
    for layer, forward in forwards.items():
        vars(layer)["forward"] = forward
    try:
        yield
    finally:
        for layer in forwards:
            del vars(layer)["forward"]


@contextmanager
def unpatched(network: nn.Module) -> Iterator[None]:
    """Within it, its layers are called as they are, even inside `patched_forwards`."""
    found = {layer: vars(layer).get("forward") for layer in network.modules()}
    patched = {layer: f for layer, f in found.items() if isinstance(f, Packed) or getattr(f, "func", None) is with_rows}
    for layer in patched:
        del vars(layer)["forward"]
    try:
        yield
    finally:
        for layer, forward in patched.items():
            vars(layer)["forward"] = forward


def with_rows(forward: Forward, rows: int, *given: Tensor) -> Tensor:
    """Both counts are powers of two: the given rows are there more than once."""
    count = len(given[0])
    return forward(*(torch.cat([each] * (rows // count)) for each in given))[:count]
