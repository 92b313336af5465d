"""Low-rank factors: a layer becomes two with a narrow space between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.calibration import Responses, responses
from trainer.compression.structure import layer_node
from trainer.errors import UserError
from trainer.process.progress import say

KINDS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
WORTH = 0.75  # two layers of nearly as many multiply-adds take longer than one
NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1}  # of a kernel's axis of size 1
# weights stand as (in, out, height, width) here; the axes of the kernel that the first layer of two takes
SPLITS = ((), (2, 3), (2,))


class LowRank(nn.Sequential):
    """Two layers in the place of one, the first without a bias."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__(first, second)

    def node(self) -> dict[str, Any]:
        first, second = map(layer_node, self)
        return {"_target_": "trainer.compression.low_rank.LowRank", "first": first, "second": second}


def low_rank(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    energy: float = 0.99,
    rank: float | None = None,
    by: str = "responses",
) -> nn.Module:
    """The network with layers as products of two thinner ones, where that takes at most 3/4 of the multiply-adds.

    by: "responses": outputs y of a layer over `inputs` keep their principal directions U (Zhang et al. 2016),
    y ~ U U^T (W x + b - mean) + mean. Bound: E |y - y'|^2 <= (1 - energy) E |y - mean|^2 over `inputs`, in every layer.
    "weights": W keeps its largest singular values, W ~ U V. Of a convolution's three splits the cheapest is taken: 1x1
    before it, 1x1 behind it, a column then a row (Jaderberg et al. 2014). Bound: |W - U V|_F <= sqrt(1 - energy) |W|_F.
    energy: share of squared deviations or singular values that stays, in (0, 1]. rank: share of their number instead.
    Cost: seconds of decompositions, and other images: fine-tune afterwards.
    """
    for name, share in (("energy", energy), ("rank", rank)):
        if share is not None and not 0 < share <= 1:
            raise UserError(f"passes.low_rank.{name}={share}: expected more than 0 and at most 1")
    if by not in ("responses", "weights"):
        raise UserError(f"passes.low_rank.by={by}: expected responses or weights")
    network = deepcopy(network)
    layers = candidates(network)
    known = responses(network, inputs, layers) if by == "responses" else {}
    num_split = 0
    for path, layer in layers.items():
        module = network.get_submodule(path)
        if by == "weights":
            best = min(splits(layer, energy, rank), key=multiply_adds)
        elif path in known:
            best = factorize(layer, known[path], energy, rank)
        else:
            continue
        if multiply_adds(best) <= WORTH * multiply_adds(parts(module)):
            network.set_submodule(path, best.train(module.training))
            num_split += 1
    if not num_split:
        say(f"low_rank: none of {len(layers)} layers takes {WORTH:.0%} of its multiply-adds or less: nothing changed")
    return network


def candidates(network: nn.Module) -> dict[str, Any]:
    """{path: layer} of what can be split; two layers of an earlier pass stand as the one that they amount to."""
    found: dict[str, Any] = {}
    inside: tuple[str, ...] = ()
    for path, module in network.named_modules():
        if path and not path.startswith(inside) and all(map(is_plain, parts(module))):
            found[path] = merge_factors(module) if isinstance(module, LowRank) else module
            inside += (f"{path}.",) if isinstance(module, LowRank) else ()
    return found


def parts(module: nn.Module) -> list[nn.Module]:
    return [*module] if isinstance(module, LowRank) else [module]


def factorize(layer: Any, known: Responses, energy: float, rank: float | None) -> LowRank:
    """A layer whose outputs move along their first principal directions alone."""
    kept = num_kept(known.values, energy, rank)
    directions = known.directions[:, :kept]  # (out, rank)
    narrow = torch.einsum("iohw,or->irhw", canonical(layer).double(), directions)
    bias = 0 if layer.bias is None else layer.bias.detach().double()
    rest = directions @ (directions.T @ (bias - known.mean)) + known.mean
    return LowRank(part(layer, narrow, (2, 3), None), part(layer, directions.T[:, :, None, None], (), rest))


def is_plain(module: nn.Module) -> bool:
    """Whether it is a layer that can be split."""
    if not isinstance(module, KINDS[1:]):
        return type(module) is nn.Linear
    ordinary = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) in KINDS and ordinary


def multiply_adds(layers: Iterable[nn.Module]) -> float:
    """Of layers behind each other, for one pixel of what the first reads."""
    total, area = 0.0, 1.0
    for layer in layers:
        scale = math.prod(getattr(layer, "stride", ()))
        area = area if isinstance(layer, nn.ConvTranspose2d) else area / scale
        total += area * layer.weight.numel()  # type: ignore[operator]
        area = area * scale if isinstance(layer, nn.ConvTranspose2d) else area
    return total


def splits(layer: Any, energy: float, rank: float | None) -> list[LowRank]:
    """A layer in each way to split its weight; one way where it has no kernel."""
    weight, found = canonical(layer), []
    for axes in SPLITS if weight[0, 0].numel() > 1 else SPLITS[:1]:
        others = tuple(axis for axis in (2, 3) if axis not in axes)
        rows = weight.permute(0, *axes, 1, *others)
        u, values, v = torch.linalg.svd(rows.flatten(0, len(axes)).flatten(1).double(), full_matrices=False)
        kept = num_kept(values, energy, rank)
        root = values[:kept].sqrt()  # half to each, so that both have weights of one size
        first = (u[:, :kept] * root).unflatten(0, rows.shape[: 1 + len(axes)]).movedim(-1, 1)
        second = (root[:, None] * v[:kept]).unflatten(1, rows.shape[1 + len(axes) :])
        for axis in (2, 3):
            first, second = (first, second.unsqueeze(axis)) if axis in axes else (first.unsqueeze(axis), second)
        found.append(LowRank(part(layer, first, axes, None), part(layer, second, others, layer.bias)))
    return found


def num_kept(values: Tensor, energy: float, rank: float | None) -> int:
    """How many of the singular values, largest first; at least 1."""
    if rank is not None:
        present = int((values > values[0] * 1e-6).sum())
        return max(1, math.ceil(rank * present))
    lost = values.square().flip(0).cumsum(0)  # small ones first: no rounding of what is lost
    return max(1, len(values) - int((lost <= (1 - energy) * lost[-1]).sum()))


def canonical(layer: Any) -> Tensor:
    """Its weight as (in, out, height, width)."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight.T[:, :, None, None]
    return weight if isinstance(layer, nn.ConvTranspose2d) else weight.transpose(0, 1)


def part(layer: Any, weight: Tensor, axes: Sequence[int], bias: Tensor | None) -> nn.Module:
    """A layer of this weight (in, out, height, width) that moves along `axes` as `layer` does."""
    kind: Any = type(layer)
    sizes: dict[str, Any] = {}
    if not isinstance(layer, nn.Linear):
        kind = type(layer) if axes else nn.Conv2d
        neutral = NEUTRAL | ({"output_padding": 0} if kind is nn.ConvTranspose2d else {})
        sizes = {k: tuple(getattr(layer, k)[d - 2] if d in axes else n for d in (2, 3)) for k, n in neutral.items()}
        sizes["kernel_size"] = tuple(weight.shape[2:])
    old = layer.weight
    made = kind(*weight.shape[:2], bias=bias is not None, device=old.device, dtype=old.dtype, **sizes)
    if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
        made = made.to(memory_format=torch.channels_last)
    with torch.no_grad():
        canonical(made).copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made.requires_grad_(old.requires_grad)


def merge_factors(module: LowRank) -> Any:
    """The one layer that two of an earlier pass amount to."""
    layers: list[Any] = [*module]
    first, second = layers
    weight = torch.einsum("irhw,rohw->iohw", canonical(first), canonical(second))  # axes of size 1 are broadcast
    if isinstance(first, nn.Linear):
        return part(first, weight, (), second.bias)
    moving = next((each for each in layers if isinstance(each, nn.ConvTranspose2d)), first)
    whole = deepcopy(moving)  # where a layer has no axis, its numbers are the neutral ones
    for name, neutral in (NEUTRAL | ({"output_padding": 0} if moving.transposed else {})).items():
        pairs = zip(*(getattr(each, name, (neutral, neutral)) for each in layers), strict=True)
        setattr(whole, name, tuple(map(max, pairs)))
    return part(whole, weight, (2, 3), second.bias)
