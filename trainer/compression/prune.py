"""Structured pruning: whole channels go, with every weight that makes or reads them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.channels import Group, groups
from trainer.compression.structure import as_loaded, resize, tensors
from trainer.errors import UserError

IMPORTANCES = ("effect", "l1", "l2")


def prune(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    ratio: float = 0.5,
    importance: str = "effect",
    multiple_of: int = 8,
) -> nn.Module:
    """The network without its least important channels, found by dependency (DepGraph, Fang et al. 2023).

    ratio: share of each group's channels that goes, in [0, 1). importance: "effect" on the images of `inputs`, or the
    "l1" or "l2" norm of all weights that make or read a channel, biases included. multiple_of: widths stay multiples of
    it, or whole where they are smaller. The text encoder, the latent and the image stay whole.
    No bound on the images: fine-tune afterwards. Cost: a forward pass, and for "effect" two backward ones a batch.
    UserError where nothing can go, or where the network's own code counts on a width.
    """
    if not 0 <= ratio < 1:
        raise UserError(f"passes.prune.ratio={ratio}: expected at least 0 and less than 1")
    if importance not in IMPORTANCES:
        raise UserError(f"passes.prune.importance={importance}: expected one of {', '.join(IMPORTANCES)}")
    if multiple_of < 1:
        raise UserError(f"passes.prune.multiple_of={multiple_of}: expected at least 1")
    found = groups(network, inputs[0])
    if not found:
        raise UserError(f"prune: {type(network).__name__} has no channel that is free to go: leave the pass out")
    values = effects(network, inputs) if importance == "effect" else [dict(tensors(network))]
    scores = importances(values, found, importance)
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group, score in zip(found, scores, strict=True):
        step = multiple_of // math.gcd(multiple_of, group.width)
        num = len(group.channels)
        num_kept = min(num, max(step, int(num * (1 - ratio) / step + 0.5) * step))
        for channel in score.argsort(stable=True)[: num - num_kept].tolist():
            for place, indices in group.channels[channel].items():
                gone[place].update(indices)
    pruned = remove_channels(network, gone)
    try:
        with torch.no_grad():
            pruned(*inputs[0])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"prune: {type(network).__name__} counts on a width that pruning changed ({reason}): leave the pass out, "
            "or let its forward read sizes from its tensors"
        ) from error
    return pruned


def importances(values: Iterable[Mapping[str, Tensor]], found: Sequence[Group], norm: str) -> list[Tensor]:
    """Of each channel of each group, over its slices of all tensors: sum |w|, sum w^2, or E (sum of effects)^2."""
    places = [
        {place: torch.tensor([channel[place] for channel in group.channels]) for place in group.channels[0]}
        for group in found
    ]
    totals = [torch.zeros(len(group.channels), dtype=torch.float64) for group in found]
    for each in values:
        for group, total in zip(places, totals, strict=True):
            sums = torch.zeros_like(total)
            for (name, dim), indices in group.items():
                if name in each:
                    value = each[name].detach().double().movedim(dim, 0).reshape(each[name].shape[dim], -1)
                    value = {"l1": value.abs, "l2": value.square, "effect": value.clone}[norm]()
                    sums += value.sum(1).cpu()[indices].sum(1)
            total += sums.square() if norm == "effect" else sums
    return totals


def effects(network: nn.Module, inputs: Sequence[tuple[Tensor, Condition]]) -> Iterator[dict[str, Tensor]]:
    """What taking each weight away does to the images, w dG.v/dw, to first order (Molchanov et al. 2019).

    Along random directions v, two of random signs a batch: E (sum_w w dG.v/dw)^2 = |sum_w w dG/dw|^2.
    """
    network = deepcopy(network).requires_grad_(True)
    weights = dict(network.named_parameters())
    random = torch.Generator().manual_seed(0)
    for latent, condition in inputs:
        with torch.enable_grad():
            image = network(latent, condition)
        for last in (False, True):
            signs = torch.randint(0, 2, image.shape, generator=random).to(image) * 2 - 1
            slopes = torch.autograd.grad(
                image, list(weights.values()), signs, retain_graph=not last, allow_unused=True
            )
            pairs = zip(weights.items(), slopes, strict=True)
            yield {name: weight.detach() * slope for (name, weight), slope in pairs if slope is not None}


def remove_channels(network: nn.Module, gone: dict[tuple[str, int], set[int]]) -> nn.Module:
    """A copy of the network without some indices, {(parameter, dimension): indices}."""
    network = deepcopy(network)
    for (name, dim), indices in gone.items():
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, attribute).detach()
        kept = [index for index in range(old.shape[dim]) if index not in indices]
        resize(module, attribute, old.index_select(dim, torch.tensor(kept, device=old.device)))
    return as_loaded(network)
