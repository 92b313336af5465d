"""Structured pruning: whole channels go, with every weight that makes or reads them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.channels import Group, groups
from trainer.compression.structure import resize, tensors
from trainer.errors import UserError

IMPORTANCES = ("l1", "l2")


def prune(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    ratio: float = 0.5,
    importance: str = "l2",
    multiple_of: int = 8,
) -> nn.Module:
    """The network without its least important channels, found by dependency (DepGraph, Fang et al. 2023).

    ratio: share of each group's channels that goes, in [0, 1). importance: "l1" or "l2" norm of all weights that make
    or read a channel, biases included. multiple_of: widths stay multiples of it, or whole where they are smaller.
    The text encoder, the latent and the image stay whole. No bound on the images: fine-tune afterwards. Cost: one
    forward pass. UserError where nothing can go, or where the network's own code counts on a width.
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
    weights = dict(tensors(network))
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in found:
        step = multiple_of // math.gcd(multiple_of, group.width)
        num = len(group.channels)
        num_kept = min(num, max(step, int(num * (1 - ratio) / step + 0.5) * step))
        for channel in importances(weights, group, importance).argsort(stable=True)[: num - num_kept].tolist():
            for place, indices in group.channels[channel].items():
                gone[place].update(indices)
    pruned = cut(network, gone)
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


def importances(weights: dict[str, Tensor], group: Group, norm: str) -> Tensor:
    """Norm of all weights of each channel of a group: I_c = (sum over its slices of |w|^p)^(1/p), p = 1 or 2."""
    power = IMPORTANCES.index(norm) + 1
    total = torch.zeros(len(group.channels), dtype=torch.float64)
    for name, dim in group.channels[0]:
        weight = weights[name].detach().double().abs().pow(power)
        each = weight.movedim(dim, 0).reshape(weight.shape[dim], -1).sum(1).cpu()
        total += torch.stack([each[channel[name, dim]].sum() for channel in group.channels])
    return total ** (1 / power)


def cut(network: nn.Module, gone: dict[tuple[str, int], set[int]]) -> nn.Module:
    """A copy of the network without some indices, {(parameter, dimension): indices}."""
    network = deepcopy(network)
    for (name, dim), indices in gone.items():
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, attribute).detach()
        kept = [index for index in range(old.shape[dim]) if index not in indices]
        channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
        new = old.index_select(dim, torch.tensor(kept, device=old.device))
        resize(module, attribute, new.contiguous(memory_format=torch.channels_last) if channels_last else new)
    return network
