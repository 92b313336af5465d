"""FSDP2: each sizeable block of a network is split over the ranks and gathered while it works (Zhao et al. 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from trainer.errors import UserError
from trainer.strategies.parts import Part
from trainer.strategies.sharded import Sharded

# of an operation in place on what a block returns; ours work on nothing in place that has a gradient
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # are never called, so nothing would gather them


class FSDP(Sharded):
    """Parameters, gradients and optimiser states, each split over the ranks; gradients are averaged at each backward.

    unit_parameters: a block with at least so many parameters of its own is gathered and freed by itself. Few large
    units communicate better, many small ones need less memory. The children of a network are always units, as losses
    may call them one by one.
    replicas: so many groups of neighbouring ranks have all of it, split over the ranks of the group (hybrid sharding).
    As many as nodes, weights are gathered within a node, and gradients alone cross the network between them.
    """

    def __init__(self, unit_parameters: int = 1_000_000, replicas: int = 1, **options: Any):
        if unit_parameters < 1 or replicas < 1:
            raise UserError(
                f"strategy.unit_parameters={unit_parameters}, strategy.replicas={replicas}: expected at least 1"
            )
        super().__init__(**options)
        self.unit_parameters, self.replicas = unit_parameters, replicas

    def configure_ddp(self) -> None:
        shards, rest = divmod(self.world_size, self.replicas)
        if rest:
            raise UserError(f"strategy.replicas={self.replicas}: expected a divisor of the {self.world_size} ranks")
        self.mesh = init_device_mesh(
            self.root_device.type, (self.replicas, shards), mesh_dim_names=("replicas", "shards")
        )
        super().configure_ddp()

    def shard(self, network: nn.Module) -> None:
        reduced = torch.bfloat16 if self.reduce_dtype == "bfloat16" else None
        policy = MixedPrecisionPolicy(reduce_dtype=reduced)
        mesh = self.mesh if self.replicas > 1 else self.mesh["shards"]
        for unit in [*units(network, self.unit_parameters), network]:
            # None, the default, would leave the root gathered: a player that is frozen meanwhile then goes stale
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        # now, as else the first child to run would take itself for the root
        network._get_fsdp_state()._lazy_init()  # type: ignore[operator]

    def norm(self, gradients: list[Any]) -> Tensor:
        return get_total_norm(gradients).full_tensor()  # type: ignore[attr-defined]

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        blocks = [module for module in network.modules() if isinstance(module, FSDPModule)]
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
            block.set_reshard_after_backward(False, recurse=False)
            block.unshard()
        try:
            yield
        finally:
            for block in blocks:
                block.set_reshard_after_forward(True, recurse=False)
                block.set_reshard_after_backward(True, recurse=False)
                block.reshard()

    def share(self, tensor: Tensor) -> Part:
        """A rank's rows of a tensor that is split along its first dimension."""
        if not isinstance(tensor, DTensor):
            return super().share(tensor)
        shards = self.world_size // self.replicas
        rows = -(-tensor.shape[0] // shards)
        width = tensor.shape.numel() // max(1, tensor.shape[0])
        first = min(rows * (self.global_rank % shards), tensor.shape[0])
        return Part(tensor.to_local(), first * width, tensor.shape)


def units(module: nn.Module, size: int, top: bool = True) -> list[nn.Module]:
    """Blocks below `module` to be gathered one by one, inner ones first."""
    found: list[nn.Module] = []
    for child in module.children():
        inner = units(child, size, top and isinstance(child, CONTAINERS))
        taken = {id(p) for unit in inner for p in unit.parameters()}
        left = sum(p.numel() for p in child.parameters() if id(p) not in taken)
        found += inner
        if not isinstance(child, CONTAINERS) and left and (top or left >= size):
            found.append(child)
    return found
