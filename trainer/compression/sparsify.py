"""Unstructured pruning: small weights become zeros, and only the others are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.structure import settings
from trainer.errors import UserError
from trainer.process.progress import say

BLOCK, STAYING = 4, 2  # pattern 2:4


class Sparse(nn.Module):
    """A layer that is dense in use; its state is the weights that are not zero and a bit for each, set where they are.

    weight_mask: ceil(size / 8) bytes, first weight in the highest bit. weight_values: (number of non-zeros,).
    """

    weight: Any

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.{type(self).__name__}", **settings(self)}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination.pop(f"{prefix}weight").detach()
        mask = weight != 0
        bits = np.packbits(mask.flatten().cpu().numpy())
        destination[f"{prefix}weight_mask"] = torch.from_numpy(bits).to(weight.device)
        destination[f"{prefix}weight_values"] = weight[mask]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight_mask" in state_dict:
            bits, values = (state_dict.pop(f"{prefix}weight_{part}") for part in ("mask", "values"))
            flat = np.unpackbits(bits.cpu().numpy(), count=self.weight.numel()).astype(bool)
            weight = torch.zeros(self.weight.shape, dtype=values.dtype, device=values.device)
            weight[torch.from_numpy(flat).view(weight.shape).to(values.device)] = values
            state_dict[f"{prefix}weight"] = weight
        super()._load_from_state_dict(state_dict, prefix, *args)


class SparseLinear(Sparse, nn.Linear):
    """Linear with a sparse state."""


class SparseConv2d(Sparse, nn.Conv2d):
    """Conv2d with a sparse state."""


class SparseConvTranspose2d(Sparse, nn.ConvTranspose2d):
    """ConvTranspose2d with a sparse state."""


SPARSE: Mapping[type[nn.Module], type[Sparse]] = {
    nn.Linear: SparseLinear,
    nn.Conv2d: SparseConv2d,
    nn.ConvTranspose2d: SparseConvTranspose2d,
}


def sparsify(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    sparsity: float = 0.5,
    pattern: str | None = None,
) -> nn.Module:
    """The network with its smallest weights set to zero, over all layers together (Han et al. 2015).

    sparsity: share of zeros, in (0, 1). pattern: null, or "2:4" for the two largest of each four inputs of an output,
    in layers whose inputs come in fours; sparsity is not read then.
    Bound: |W - W'|_F <= sqrt(share of zeros) |W|_F, over all layers together, of each layer for 2:4; no weight larger
    than one that goes changes. Gain: stored bytes, about 1 - sparsity + 1/32 of those of float32 layers. Speed stays.
    """
    if not 0 < sparsity < 1:
        raise UserError(f"passes.sparsify.sparsity={sparsity}: expected more than 0 and less than 1")
    if pattern not in (None, "2:4"):
        raise UserError(f"passes.sparsify.pattern={pattern}: expected null or 2:4")
    network = deepcopy(network)
    layers = {path: module for path, module in network.named_modules() if type(module) in {*SPARSE, *SPARSE.values()}}
    if not layers:
        raise UserError(f"sparsify: {type(network).__name__} has no float layer left: put it before what takes 8 bits")
    weights = {path: module.weight.detach() for path, module in layers.items()}
    if pattern:
        masks = {path: largest_of_four(weight, inputs_of(layers[path])) for path, weight in weights.items()}
    else:
        sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
        threshold = sizes.kthvalue(max(1, round(sparsity * len(sizes)))).values
        masks = {path: weight.abs() > threshold for path, weight in weights.items()}
    for path, module in layers.items():
        network.set_submodule(path, sparse(module, masks[path]))
    zeros = 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    fast = "; a GPU has kernels for 2:4 in half precision, which nothing here calls" if pattern else ""
    say(f"sparsify: {zeros:.0%} of the weights of {len(layers)} layers are zeros: fewer bytes, no more speed{fast}")
    return network


def inputs_of(layer: nn.Module) -> int:
    """Dimension of its weight that counts inputs."""
    return 0 if isinstance(layer, nn.ConvTranspose2d) else 1


def largest_of_four(weight: Tensor, dim: int) -> Tensor:
    """True at the two largest of each four along a dimension; everywhere where it is no multiple of four."""
    if weight.shape[dim] % BLOCK:
        return torch.ones_like(weight, dtype=torch.bool)
    fours = weight.abs().unflatten(dim, (-1, BLOCK))
    kept = fours.topk(STAYING, dim + 1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(dim + 1, kept, True).flatten(dim, dim + 1)


def sparse(layer: Any, mask: Tensor) -> nn.Module:
    """The layer with zeros outside of the mask."""
    weight = layer.weight
    kind: Any = SPARSE.get(type(layer), type(layer))
    made = kind(**settings(layer), device=weight.device, dtype=weight.dtype).train(layer.training)
    made.weight = nn.Parameter(torch.where(mask, weight.detach(), 0), requires_grad=weight.requires_grad)
    made.bias = layer.bias
    return made
