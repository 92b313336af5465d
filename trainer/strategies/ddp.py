"""Data parallel: one reducer per network, armed for the network that steps."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _init_dist_connection
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainer.errors import UserError
from trainer.strategies.base import PerNetwork, parameters
from trainer.strategies.gather import Gather
from trainer.strategies.rendezvous import meet, tell_of_loopback

REDUCED = ("float32", "bfloat16")


class Parallel(PerNetwork, DDPStrategy):  # type: ignore[misc]
    """What the strategies of several ranks share: Lightning's launch, process group, broadcast and reduce.

    A collective waits for six hours, not for the ten minutes of NCCL: one rank may decode a large data set or measure
    while the others wait. It is the heartbeat that ends a run whose rank is dead or stuck.
    rendezvous_seconds: how long a rank waits at the start until all are there. Then callbacks that have `on_rendezvous`
    are told, before anything is prepared. children: processes of other ranks that this one has started.
    reduce_dtype: of gradients on their way between ranks, whatever they are computed in: float32, or bfloat16 for half
    the bytes and a relative error of 2^-9.
    """

    def __init__(
        self,
        rendezvous_seconds: float = 60,
        compile: bool = False,
        checkpoint_activations: bool = False,
        reduce_dtype: str = "float32",
        **options: Any,
    ):
        if reduce_dtype not in REDUCED:
            raise UserError(f"strategy.reduce_dtype={reduce_dtype}: expected {' or '.join(REDUCED)}")
        super().__init__(**{"timeout": timedelta(hours=6)} | options)
        self.checkpoint_activations = checkpoint_activations
        self.reduce_dtype, self.compile = reduce_dtype, compile
        self.rendezvous_seconds = rendezvous_seconds
        self.children: list[Any] = []

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._process_group_backend = self._get_process_group_backend()
        if procs := getattr(self.launcher, "procs", None):
            self.children = list(procs)
            procs.clear()  # Lightning would kill all without a word within 5 s of the death of one
        if not dist.is_initialized():
            place: Any = self.cluster_environment
            where = place.main_address, place.main_port, self.global_rank, self.world_size
            try:
                store = meet(*where, self.rendezvous_seconds, self.children)
            except BaseException:
                for child in self.children:
                    child.kill()
                raise
            if "gloo" in self._process_group_backend:
                tell_of_loopback(store, self.global_rank, self.world_size)
            device = self.root_device if self.root_device.type != "cpu" else None
            options: dict[str, Any] = {"store": store, "timeout": self._timeout, "device_id": device}
            _init_dist_connection(place, self._process_group_backend, **options)
        trainer: Any = self.lightning_module and self.lightning_module.trainer
        for callback in trainer.callbacks if trainer else ():
            if hasattr(callback, "on_rendezvous"):
                callback.on_rendezvous(trainer)

    def gather(self, rows: Tensor) -> Tensor:
        return Gather.apply(rows)

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        """One step, after which statistics, buffers of networks, `shared` parts and objective, are means over ranks."""
        done = super().training_step(*arguments, **options)
        for statistic in self.statistics:
            dist.all_reduce(statistic)
            statistic.div_(self.world_size)
        return done

    @cached_property
    def statistics(self) -> list[Tensor]:
        objective: Any = self.lightning_module
        networks = [objective.network(name) for name in (*objective.phases, *objective.shared)]
        saved = [network.state_dict().keys() if [*network.buffers()] else () for network in networks]
        pairs = zip(networks, saved, strict=True)
        found = [b for each, keys in pairs for key, b in each.named_buffers() if key in keys]
        return [b for b in (*found, *objective.buffers(recurse=False)) if b.is_floating_point()]

    def name_of(self, optimizer: Optimizer) -> str:
        """The network that an optimiser steps."""
        objective: Any = self.lightning_module
        return list(objective.phases)[[id(o) for o in self.optimizers].index(id(optimizer))]


class DDP(Parallel):
    """`DistributedDataParallel` around each network of a phase, for its reducer only: it is never called.

    A whole-module DDP would all-reduce both players in both phases. Here a phase moves exactly the gradients of its
    network, once, also when a loss calls a network several times or differentiates it twice. Weights are
    synchronised once, at setup.
    """

    engines: dict[str, DistributedDataParallel]

    def configure_ddp(self) -> None:
        objective: Any = self.lightning_module
        self.engines = {}
        for name in objective.phases:
            self.engines[name] = DistributedDataParallel(
                objective.network(name),
                device_ids=self.determine_ddp_device_ids(),
                gradient_as_bucket_view=True,
            )
            if self.reduce_dtype == "bfloat16":
                self.engines[name].register_comm_hook(None, lambda _, bucket: in_bfloat16(bucket))

    def backward(self, value: Tensor, optimizer: Optimizer, sync: bool = True) -> None:  # type: ignore[override]
        if sync:
            reducer = self.engines[self.name_of(optimizer)].reducer
            reducer._rebuild_buckets()  # after the first backward: buckets in the order in which gradients came
            reducer.prepare_for_backward([])
            value = Reached.apply(value, *parameters(optimizer))
        super().backward(value, optimizer)


def in_bfloat16(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """The mean of a bucket over the ranks, of gradients rounded to bf16 and added up in it. PyTorch's wants NCCL."""
    gradients = bucket.buffer()
    rounded = gradients.to(torch.bfloat16)
    done: Any = dist.all_reduce(rounded, async_op=True)
    future: torch.futures.Future[Tensor] = done.get_future()
    return future.then(lambda _: gradients.copy_(rounded).div_(dist.get_world_size()))


class Reached(torch.autograd.Function):
    """A loss as it is, with the gradient "none" for every parameter: those that it does not use are then done at once.

    Else the reducer would wait for them for ever. On a rank whose loss does not use one, it counts as a gradient of 0.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.nothing = [None] * len(parameters)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return *gradients, *ctx.nothing
