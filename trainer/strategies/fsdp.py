"""FSDP2: each sizeable block of a network is split over the ranks and gathered while it works (Zhao et al. 2023)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from trainer.errors import UserError
from trainer.strategies.ddp import REDUCED
from trainer.strategies.meta import receive
from trainer.strategies.parts import Part
from trainer.strategies.sharded import Sharded, units

# of an operation in place on what a block returns; ours work on nothing in place that has a gradient
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


class FSDP(Sharded):
    """Parameters, gradients and optimiser states, each split over the ranks; gradients are averaged at each backward.

    unit_parameters: a block with at least so many parameters of its own is gathered and freed by itself. Few large
    units communicate better, many small ones need less memory. The children of a network are always units, as losses
    may call them one by one.
    replicas: so many groups of neighbouring ranks have all of it, split over the ranks of the group (hybrid sharding).
    As many as nodes, weights are gathered within a node, and gradients alone cross the network between them.
    gather_dtype: of weights on their way between ranks: float32, or bfloat16 for half the bytes. Forward and backward
    pass then see every weight rounded to it, on the rank that keeps it, too. What asks for whole weights gets those of
    float32 (`full_params`: exact penalties, samples of the average), and so do checkpoints.
    offload_parameters: what a rank keeps of weights, gradients and states rests in main memory and is stepped there.
    """

    splits_weights = True

    def __init__(
        self,
        unit_parameters: int = 1_000_000,
        replicas: int = 1,
        gather_dtype: str = "float32",
        offload_parameters: bool = False,
        **options: Any,
    ):
        if unit_parameters < 1 or replicas < 1:
            raise UserError(
                f"strategy.unit_parameters={unit_parameters}, strategy.replicas={replicas}: expected at least 1"
            )
        if gather_dtype not in REDUCED:
            raise UserError(f"strategy.gather_dtype={gather_dtype}: expected {' or '.join(REDUCED)}")
        super().__init__(**options)
        self.unit_parameters, self.replicas = unit_parameters, replicas
        self.gathers = Rounded() if gather_dtype == "bfloat16" else None
        self.offload_parameters = offload_parameters
        self.rests = CPUOffloadPolicy() if offload_parameters else OffloadPolicy()

    def configure_ddp(self) -> None:
        if self.offload_parameters and self.root_device.type == "cpu":
            raise UserError("strategy.offload_* moves state from a GPU to main memory, and there is no GPU: leave it")
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
            receive(unit, self.root_device)
            # None, the default, would leave the root gathered: a player that is frozen meanwhile then goes stale
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy, offload_policy=self.rests)
            if self.gathers:
                unit.set_custom_all_gather(self.gathers)  # type: ignore[operator]
        # now, as else the first child to run would take itself for the root
        network._get_fsdp_state()._lazy_init()  # type: ignore[operator]

    def norm(self, gradients: list[Any]) -> Tensor:
        if not self.offload_parameters:
            return get_total_norm(gradients).full_tensor()  # type: ignore[attr-defined]
        square = get_total_norm([gradient.to_local() for gradient in gradients]).to(self.root_device).square()
        dist.all_reduce(square, group=self.mesh["shards"].get_group())  # on the GPU, where there is NCCL
        return square.sqrt()

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        blocks = [module for module in network.modules() if isinstance(module, FSDPModule)]
        for block in blocks:
            block.set_reshard_after_forward(False, recurse=False)
            block.set_reshard_after_backward(False, recurse=False)
        with self.gathers.whole() if self.gathers else nullcontext():
            for block in blocks:
                block.unshard()
        try:
            with super().full_params(network):
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


class Rounded:
    """How FSDP2 gathers weights: rounded to bf16 on their way, float32 when they are there."""

    rounds = True

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it weights are gathered as they are."""
        self.rounds = False
        try:
            yield
        finally:
            self.rounds = True

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        if not self.rounds:
            return dist.all_gather_into_tensor(output_tensor, input_tensor, group=group, async_op=async_op)
        gathered = torch.empty_like(output_tensor, dtype=torch.bfloat16)
        dist.all_gather_into_tensor(gathered, input_tensor.to(torch.bfloat16), group=group)
        output_tensor.copy_(gathered)  # in the stream of the gather
        return None
