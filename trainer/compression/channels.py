"""Which slices of which weights belong to one channel, found by following a forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from trainer.batch import Condition

FIXED = 0  # the label of what cannot be cut
MOVING = {  # __get__: properties, as x.T
    "view", "reshape", "permute", "transpose", "t", "swapaxes", "movedim", "flatten", "unflatten", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "chunk", "split", "tensor_split", "unbind",
    "select", "narrow", "index_select", "__getitem__", "cat", "concat", "stack", "roll", "flip", "pixel_shuffle",
    "pixel_unshuffle", "unfold", "diagonal", "__get__",
}
SPATIAL = {"interpolate", "avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "pad"}
PRODUCTS = {"matmul", "__matmul__", "bmm", "mm"}
CONVOLUTIONS = {"conv1d": 1, "conv2d": 1, "conv_transpose1d": 0, "conv_transpose2d": 0}  # dimension of C in the weight


class Group(NamedTuple):
    """Channels that are made and read by the same tensors, each of them free to go.

    channels: for each channel {(name of a parameter or buffer, dimension): its indices there}. width: indices that a
    channel takes at least in a dimension: 1, or the number of heads where it is one of each head.
    """

    channels: list[dict[tuple[str, int], list[int]]]
    width: int


def groups(network: nn.Module, batch: tuple[Tensor, Condition], keep: Sequence[str] = ("text",)) -> list[Group]:
    """Groups of channels of a generator, by a dependency graph (Fang et al. 2023) between elements, not layers.

    Every activation carries a label for each element, the channel it belongs to. Layers make labels and read them,
    views move them as they move the values, sums and products unite them, and what is unknown here fixes those it sees.
    keep: parts whose own channels stay whole. The captions, the latent and the image stay whole always.
    """
    latent, condition = batch
    labels = Labels(network, keep)
    with torch.no_grad(), labels:
        image = network(latent[:1], condition.rows(slice(1)))
    labels.fix(labels.of(image))
    roots = labels.roots()
    found: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, vector in labels.places.items():
        for index, label in enumerate(roots[vector].tolist()):
            if label != roots[FIXED]:
                found[label][place].append(index)
    alike: dict[tuple[Any, ...], list[dict[tuple[str, int], list[int]]]] = defaultdict(list)
    for channel in found.values():
        alike[tuple((place, len(indices)) for place, indices in channel.items())].append(dict(channel))
    return [Group(channels, min(num for _, num in places)) for places, channels in alike.items()]


class Labels(TorchFunctionMode):
    """Carries labels through the calls made under it."""

    def __init__(self, network: nn.Module, keep: Sequence[str]):
        super().__init__()
        self.keep = tuple(f"{part}." for part in keep)
        self.names = {id(p): name for name, p in (*network.named_parameters(), *network.named_buffers())}
        self.parent = [FIXED]
        self.known: dict[int, tuple[Tensor, Tensor]] = {}  # id: (tensor, kept alive for its id; labels of its shape)
        self.places: dict[tuple[str, int], Tensor] = {}  # (parameter, dimension): labels of its indices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
        if outputs and any(x.is_floating_point() for x in outputs):
            self.follow(func, func.__name__, args, kwargs, outputs)
        elif func.__name__ == "__setitem__":
            self.fix(self.of(args[0]))
        return result

    def follow(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        first, *others = [x for x in tree_flatten((args, kwargs))[0] if _is_float(x)] or [outputs[0]]
        shape = outputs[0].shape
        labels: list[Tensor]
        if name == "linear" and id(others[0]) in self.names:
            labels = [self.layer(self.of(first), others, reads=1, dim=-1, shape=shape)]
        elif name in CONVOLUTIONS and id(others[0]) in self.names:
            labels = [self.layer(self.of(first), others, CONVOLUTIONS[name], dim=1, shape=shape)]
        elif name in MOVING:
            moved = func(*tree_map(self._moved, args), **tree_map(self._moved, kwargs))
            labels = tree_flatten(moved)[0]
        elif name in SPATIAL and first.dim() > 2 and first.shape[:2] == shape[:2]:
            labels = [self.tied(self.of(first), 1).view(1, -1, *[1] * (len(shape) - 2)).expand(shape)]
        elif name in PRODUCTS and first.dim() > 1 and others[0].dim() > 1:
            labels = [self.product(self.of(first), self.of(others[0]), shape)]
        elif name != "group_norm" and _broadcast(aligned := self.aligned(name, first, others), shape):
            labels = [self.united(aligned, shape)]
        else:
            for x in (first, *others):
                self.fix(self.of(x))
            labels = [torch.full(x.shape, FIXED) for x in outputs]
        for x, label in zip(outputs, labels, strict=True):
            self.known[id(x)] = (x, label)

    def layer(self, x: Tensor, tensors: list[Tensor], reads: int, dim: int, shape: torch.Size) -> Tensor:
        """Linear or convolution with `tensors` (weight, bias): reads `dim` of x, makes it anew."""
        weight, makes = tensors[0], 1 - reads
        read = self.tied(x, dim)
        inner, outer = len(read), shape[dim]
        if weight.shape[reads] == inner and weight.shape[makes] == outer:  # without groups
            self.place(weight, reads, read)
            made = self.place(weight, makes)
        elif reads and not inner % weight.shape[1]:  # a group goes as a whole, with all that it reads and makes
            grouped = read.view(-1, weight.shape[1])
            self.unite(grouped, grouped[:, :1].expand_as(grouped))
            made = self.place(weight, 0, grouped[:, 0].repeat_interleave(outer // len(grouped)))
        elif weight.shape[0] == inner == outer:  # transposed, each channel by itself
            made = self.place(weight, 0, read)
        else:
            self.fix(read)
            return torch.full(shape, FIXED)
        for bias in tensors[1:]:
            made = self.place(bias, 0, made)
        return made.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape)

    def place(self, tensor: Tensor, dim: int, labels: Tensor | None = None) -> Tensor:
        """Labels of one dimension of a parameter, new ones where it has none; united with `labels`."""
        name = self.names[id(tensor)]
        if (name, dim) not in self.places:
            if labels is None:
                num = tensor.shape[dim]
                labels = torch.full((num,), FIXED) if name.startswith(self.keep) else self._new(num)
            self.places[name, dim] = labels
        elif labels is not None:
            self.unite(self.places[name, dim], labels)
        return self.places[name, dim]

    def product(self, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
        """(..., I, K) @ (..., K, J): channels along K meet and end; rows' or columns' go on, alike in all heads."""
        ends = [self.tied(x, dim) if self._varies(x, dim) else None for x, dim in ((a, -1), (b, -2))]
        if any(end is not None for end in ends):
            self.unite(*(torch.full(a.shape[-1:], FIXED) if end is None else end for end in ends))
        rows = torch.full(a.shape[-2:-1], FIXED) if ends[0] is not None else self.tied(a, -2)
        columns = torch.full(b.shape[-1:], FIXED) if ends[1] is not None else self.tied(b, -1)
        return self.united([rows[:, None], columns[None]], shape)

    def aligned(self, name: str, first: Tensor, others: Iterable[Tensor]) -> list[Tensor]:
        """Labels of the operands of an element-wise call; vectors of these norms stand along dimension 1."""
        labels = [self.of(x) for x in (first, *others)]
        if name in ("batch_norm", "instance_norm"):
            labels[1:] = [x.view(-1, *[1] * (first.dim() - 2)) for x in labels[1:]]
        return labels

    def united(self, operands: list[Tensor], shape: torch.Size) -> Tensor:
        """Labels of an element-wise result; a fixed operand fixes only channels along whose dimension it has a size."""
        out = torch.full(shape, FIXED)
        for operand in operands:
            label = operand.expand(shape)
            self.unite(*(x[(out != FIXED) & (label != FIXED)] for x in (out, label)))
            out = torch.where(out == FIXED, label, out)
        varying = [d for d in range(-len(shape), 0) if self._varies(out, d)]
        for operand in operands:
            if any(-d <= operand.dim() and operand.shape[d] > 1 for d in varying):
                self.fix(out[operand.expand(shape) == FIXED])
        return out

    def of(self, x: Tensor) -> Tensor:
        """Labels of a tensor; a parameter outside of a layer has channels if it is a vector."""
        if id(x) in self.known:
            return self.known[id(x)][1]
        if id(x) in self.names and max([*x.shape, 0]) == x.numel() > 1:
            return self.place(x, max(range(x.dim()), key=lambda d: x.shape[d])).view(x.shape)
        return torch.full(x.shape, FIXED)

    def tied(self, labels: Tensor, dim: int) -> Tensor:
        """Labels along one dimension, made equal over all others."""
        lines = labels.movedim(dim, 0).flatten(1)
        self.unite(lines, lines[:, :1].expand_as(lines))
        return lines[:, 0]

    def unite(self, a: Tensor, b: Tensor) -> None:
        num = len(self.parent)
        for pair in (a.reshape(-1) * num + b.reshape(-1)).unique().tolist():
            first, second = sorted((self._root(pair // num), self._root(pair % num)))
            self.parent[second] = first  # FIXED is the smallest, so that it stays a root

    def fix(self, labels: Tensor) -> None:
        self.unite(labels, torch.full_like(labels, FIXED))

    def roots(self) -> Tensor:
        return torch.tensor([self._root(label) for label in range(len(self.parent))])

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _new(self, num: int) -> Tensor:
        first = len(self.parent)
        self.parent += range(first, first + num)
        return torch.arange(first, first + num)

    def _varies(self, labels: Tensor, dim: int) -> bool:
        roots = self.roots()[labels]
        return bool((roots != roots.narrow(dim, 0, 1)).any())

    def _moved(self, x: Any) -> Any:
        return self.of(x) if _is_float(x) else x


def _broadcast(tensors: Iterable[Tensor], shape: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(*(x.shape for x in tensors)) == shape
    except RuntimeError:
        return False


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
