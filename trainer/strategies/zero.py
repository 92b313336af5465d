"""DeepSpeed ZeRO, one engine per network (Rajbhandari et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import UserError
from trainer.strategies.base import is_moment, num_bytes, parameters, placed
from trainer.strategies.ddp import REDUCED
from trainer.strategies.engine import load_deepspeed, settings
from trainer.strategies.hold import LIMIT
from trainer.strategies.parts import Part, fill
from trainer.strategies.scale import Scale
from trainer.strategies.sharded import Sharded
from trainer.strategies.stage3 import renew, span, split, without_hooks


class ZeRO(Sharded):
    """Splits over the ranks the optimiser states (stage 1), also the gradients (2), also the weights (3).

    offload_optimizer: states and their update live in main memory. offload_parameters: so do the weights (stage 3).
    gather_dtype: of weights on their way between ranks in stage 3, as of FSDP.
    DeepSpeed keeps a second fp32 copy of a rank's share of the weights, which it steps ("master" in `memory`).
    """

    waits = True

    def __init__(
        self,
        stage: int,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        gather_dtype: str = "float32",
        **options: Any,
    ):
        if stage not in (1, 2, 3):
            raise UserError(f"strategy.stage={stage}: expected 1, 2 or 3")
        if offload_parameters and stage < 3:
            raise UserError(f"strategy.offload_parameters with stage {stage}: only strategy=zero3 splits parameters")
        if gather_dtype not in REDUCED[: 1 if stage < 3 else 2]:
            given = f"strategy.gather_dtype={gather_dtype} with stage {stage}"
            raise UserError(f"{given}: expected float32, or with stage 3 bfloat16")
        super().__init__(**options)
        if self.compile and stage == 3:
            raise UserError("strategy.compile=true: stage 3 of DeepSpeed splits weights under a graph; take fsdp")
        self.stage, self.splits_weights = stage, stage == 3
        self.offload_optimizer = offload_optimizer
        self.offload_parameters = offload_parameters
        self.rounds = gather_dtype == "bfloat16"
        self.engines: dict[int, Any] = {}  # under the id of the optimiser
        self.owned: dict[int, list[nn.Parameter]] = {}

    def shard(self, network: nn.Module) -> None:
        if self.stage < 3:
            return super().shard(network)
        split(network, self.root_device, self.config(network))
        if self.rounds:
            for each in network.parameters():
                each.comm_dtype = torch.bfloat16  # type: ignore[attr-defined]  # in which DeepSpeed sends it

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        if (self.offload_optimizer or self.offload_parameters) and self.root_device.type == "cpu":
            raise UserError("strategy.offload_* moves state from a GPU to main memory, and there is no GPU: leave it")
        objective: Any = self.lightning_module
        deepspeed = load_deepspeed()
        for optimizer in self.optimizers:
            self.owned[id(optimizer)] = parameters(optimizer)  # the engine puts flat shards in their place
            network = objective.network(self.name_of(optimizer))
            self.engines[id(optimizer)] = deepspeed.initialize(
                model=network, optimizer=optimizer, config=self.config(network)
            )[0]
            optimizer.register_step_pre_hook(self.hold_back)
            if self.stage == 3:  # a cycle of its gathers ends with its step, as forward calls that are raw have no root
                self.engines[id(optimizer)].optimizer.parameter_offload.fwd_pre_hook.remove()

    def config(self, network: nn.Module) -> dict[str, Any]:
        sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in network.parameters()]
        return settings(self.stage, sizes, self.reduce_dtype, self.offload_optimizer, self.offload_parameters)

    def backward(self, value: Tensor, optimizer: Optimizer, sync: bool = True) -> None:  # type: ignore[override]
        engine, hold = self.engines[id(optimizer)], self.hold(optimizer)
        if isinstance(hold, Scale):
            engine.optimizer.override_loss_scale(hold.factor.item())
        engine.optimizer.clear_backward_seen_flag()  # as a forward through the engine would: gradients add up
        engine.backward(value, scale_wrt_gas=False)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Optimizer, clip: float | None = None, **_: Any
    ) -> dict[str, Tensor]:
        engine, hold = self.engines[id(optimizer)], self.hold(optimizer)
        engine.optimizer.clip_grad = clip or 0.0
        engine.step()  # leaves out a gradient that is not finite: DeepSpeed waits for the norm in every step
        if self.stage == 3:
            engine.optimizer.grad_partitions_flat_buffer.zero_()  # where no loss comes by, the last one stays
            engine.optimizer.parameter_offload.get_param_coordinator().reset_step()
        norm = torch.as_tensor(engine.get_global_grad_norm(), device=hold.age.device)
        return {key: value for key, value in hold.see(norm).items() if key != "gradient_norm" or clip is not None}

    def hold_back(self, optimizer: Optimizer, *_: Any) -> None:
        """Before the optimiser reads a rank's share of the gradient, which DeepSpeed has found finite in float64."""
        if self.hold(optimizer).age or not self.engines[id(optimizer)].optimizer._global_grad_norm < LIMIT:
            for flat in parameters(optimizer):
                if flat.grad is not None:
                    flat.grad.zero_()

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        if self.stage < 3:
            with super().full_params(network):
                yield
            return
        import deepspeed

        parts = [p for p in network.parameters() if hasattr(p, "ds_tensor")]
        if self.rounds:
            renew(parts)  # all others DeepSpeed gathers here as they rest
        with deepspeed.zero.GatheredParameters(parts), without_hooks(network):
            yield

    def part(self, parameter: Any) -> Part:
        if not hasattr(parameter, "ds_tensor"):
            return super().part(parameter)
        start, count = span(parameter, self.global_rank)
        return Part(parameter.ds_tensor.data[:count], start, parameter.ds_shape)

    def fill_weights(self, parameter: nn.Parameter, whole: Tensor) -> None:
        super().fill_weights(parameter, whole)
        for key, engine in self.engines.items():
            for share in self.shares(engine.optimizer, self.owned[key]):
                if share.parameter is parameter:
                    fill(share.of(share.master), whole)

    def shares(self, zero: Any, owned: list[nn.Parameter]) -> list[Share]:
        """Where this rank's share of each parameter lies in the flat vectors that it steps."""
        if self.stage < 3:
            return [Share.of_flat_group(p, zero.single_partition_of_fp32_groups) for p in owned]
        return [Share.of_split(p, zero, self.global_rank) for p in owned]

    def optimizer_parts(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        zero = self.engines[id(optimizer)].optimizer
        states = zero.optimizer.state
        return [
            {k: share.of(v) if is_moment(v, share.master) else v for k, v in states.get(share.master, {}).items()}
            for share in self.shares(zero, self.owned[id(optimizer)])
        ]

    def fill_optimizer(self, optimizer: Optimizer, states: list[dict[str, Any]]) -> None:
        zero = self.engines[id(optimizer)].optimizer
        for share, state in zip(self.shares(zero, self.owned[id(optimizer)]), states, strict=True):
            held = zero.optimizer.state[share.master]
            for key, value in state.items():
                if value.shape == share.shape and value.dim() > 0:
                    fill(share.of(held.setdefault(key, torch.zeros_like(share.master))), value)
                else:
                    held[key] = placed(key, value, share.master, optimizer)

    def memory(self, optimizer: Optimizer) -> dict[str, int]:
        zero, owned = self.engines[id(optimizer)].optimizer, self.owned[id(optimizer)]
        masters = zero.single_partition_of_fp32_groups if self.stage < 3 else zero.fp32_partitioned_groups_flat
        states = [v for master in masters for v in zero.optimizer.state.get(master, {}).values() if v.dim()]
        gradients = [p.grad for p in owned if p.grad is not None]
        if self.stage == 2:
            gradients += [g for group in zero.all_grad_tensors.values() for g in group or () if g is not None]
        if self.stage == 3:
            gradients += [zero.grad_partitions_flat_buffer]
        buckets = 2 if self.stage == 2 else 1  # one fills while the other is reduced
        return {
            "buckets": buckets * zero.reduce_bucket_size * masters[0].element_size(),
            "parameters": num_bytes(self.part(p).tensor for p in owned),
            "gradients": num_bytes(gradients),
            "optimizer": num_bytes(states),
            "master": num_bytes(masters),
        }


@dataclass(frozen=True)
class Share:
    """A rank's elements start .. start + count of a flattened parameter, at `offset` in the flat vector that it steps.

    A rank that has nothing of a parameter has count 0; its flat vector still says what all parts share, as Adam's step.
    """

    parameter: nn.Parameter
    shape: torch.Size
    master: Tensor
    offset: int
    start: int
    count: int

    def of(self, flat: Tensor) -> Part:
        """The share in a vector that is laid out as the master."""
        return Part(flat.data[self.offset : self.offset + self.count], self.start, self.shape)

    @classmethod
    def of_flat_group(cls, parameter: Any, masters: list[Tensor]) -> Share:
        """Stages 1 and 2 cut each group, flattened, into one piece a rank, across the borders of parameters."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return cls(parameter, parameter.shape, masters[0], 0, 0, 0)
        inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        master = masters[mapping.param_group_index]
        return cls(parameter, parameter.shape, master, flat.start, inside.start, inside.numel)

    @classmethod
    def of_split(cls, parameter: Any, zero: Any, rank: int) -> Share:
        """Stage 3 cuts each parameter, flattened, into one piece a rank."""
        group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        start, count = span(parameter, rank)
        return cls(parameter, parameter.ds_shape, zero.fp32_partitioned_groups_flat[group], offset, start, count)
