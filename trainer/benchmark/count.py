"""What a step asks of a machine, counted on tensors without values: a laptop counts what no laptop could compute."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

from trainer import noise
from trainer.batch import Batch
from trainer.benchmark.fit import build, penalty_cycle
from trainer.benchmark.hollow import empty, unknown, without_values
from trainer.benchmark.saved import Saved
from trainer.process.progress import Progress, say
from trainer.strategies.base import PerNetwork
from trainer.strategies.sharded import units

IMAGES = 8  # of the step that is counted: all that it asks for is taken to grow with them


@dataclass
class Pass:
    """Operators of a forward or a backward pass that runs in `share` of the steps, an entry each: FLOPs of an image,
    bytes of an image that are read and written, and whether it works in 16 bits."""

    share: float
    flops: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    half: list[bool] = field(default_factory=list)


@dataclass
class Phase:
    """A phase's passes, bytes that it keeps of an image for gradients, and what split weights must be gathered for it:
    `gathered` whole bytes and `gathers` calls in a step, forward and backward."""

    forward: list[Pass] = field(default_factory=list)
    backward: list[Pass] = field(default_factory=list)
    saved: float = 0.0
    gathered: list[float] = field(default_factory=lambda: [0.0, 0.0])
    gathers: list[float] = field(default_factory=lambda: [0.0, 0.0])
    whole: bool = False  # a penalty keeps all of its network gathered until the backward pass is done


@dataclass(frozen=True)
class Network:
    """bytes of fp32 weights that train; numbers of weights in each; units that FSDP makes, bytes of the largest;
    moments: states that its optimiser keeps of a weight; averaged: whether there is an EMA of it."""

    bytes: int
    sizes: list[int]
    units: int
    largest: int
    moments: int
    averaged: bool


@dataclass(frozen=True)
class Work:
    """Of one experiment. fixed: bytes that no phase trains, whole on every rank. read: bytes of an image as loaded."""

    phases: dict[str, Phase]
    networks: dict[str, Network]
    fixed: int
    read: float
    accumulate: int
    half: bool


class Operators(TorchDispatchMode):
    """Within it, every operator that runs adds its FLOPs and the bytes of its tensors to `into`."""

    def __init__(self, into: Pass, images: int) -> None:
        super().__init__()
        self.into, self.images = into, images

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = operator(*args, **kwargs)
        if operator.is_view or operator.namespace != "aten":
            return out
        tensors = [each for each in tree_flatten((args, kwargs, out))[0] if isinstance(each, Tensor)]
        formula = flop_registry.get(operator._overloadpacket)
        self.into.flops.append((formula(*args, **kwargs, out_val=out) if formula else 0) / self.images)
        self.into.bytes.append(sum(each.numel() * each.element_size() for each in tensors) / self.images)
        self.into.half.append(any(each.dtype == torch.bfloat16 for each in tensors))
        return out


class Counting(PerNetwork):
    """A strategy of one rank that takes note of what one with split weights would gather."""

    def __init__(self) -> None:
        self.phase: Phase | None = None
        self.weight = 0.0
        self.whole: list[nn.Module] = []

    def watch(self, network: nn.Module) -> None:
        for unit in [*units(network, 1_000_000), network]:
            inner = {id(p) for other in units(unit, 1_000_000, top=unit is network) for p in other.parameters()}
            size = sum(p.nbytes for p in unit.parameters() if p.requires_grad and id(p) not in inner)
            if size:
                unit.register_forward_hook(lambda *call, network=network, size=size: self.see(network, size, call[2]))

    def see(self, network: nn.Module, size: int, out: Any) -> None:
        if self.phase is None or network in self.whole:
            return
        back = any(isinstance(t, Tensor) and t.requires_grad for t in tree_flatten(out)[0])
        for index in (0, 1) if back else (0,):
            self.phase.gathered[index] += self.weight * size
            self.phase.gathers[index] += self.weight

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        assert self.phase is not None
        self.phase.gathered[0] += self.weight * sum(p.nbytes for p in network.parameters())
        self.phase.gathers[0] += self.weight * (len(units(network, 1_000_000)) + 1)
        self.phase.whole = True
        self.whole.append(network)
        yield
        self.whole.remove(network)


def count(cfg: DictConfig) -> Work:
    """Looks at a step with lazy penalties and one without, of `IMAGES` or a few more, on the first batch of the data.

    It is computed only where a loss cannot go on without values, as one that picks rows by them.
    """
    try:
        return look(cfg, FakeTensorMode(allow_non_fake_inputs=True))
    except (DynamicOutputShapeException, DataDependentOutputException):
        say("a loss reads its values: the step that is counted is computed")
        return look(cfg, None)


def look(cfg: DictConfig, fake: FakeTensorMode | None) -> Work:
    """Within `fake` without values, else with them."""
    cfg = copy.deepcopy(cfg)
    accumulate = int(cfg.objective.get("accumulate", 1))
    with open_dict(cfg):
        cfg.objective.accumulate, cfg.data.num_workers = 1, 0
        cfg.data.batch_size = IMAGES
    objective, data, _ = build(cfg)
    data.batch_size = images = math.lcm(IMAGES, objective.together)
    data.setup("fit")
    raw = data.arrived(next(iter(data.train_dataloader())))
    strategy = Counting()
    datamodule = SimpleNamespace(**{name: getattr(data, name) for name in ("train", "text", "batch_size")})
    objective._trainer = SimpleNamespace(
        global_step=0, world_size=1, datamodule=datamodule, strategy=strategy, global_rank=0, is_global_zero=True
    )
    objective.begin()
    objective.on_fit_start()
    networks = {name: described(objective, name) for name in objective.phases}
    trained = {id(p) for name in objective.phases for p in objective.network(name).parameters() if p.requires_grad}
    fixed = sum(t.nbytes for t in (*objective.parameters(), *objective.buffers()) if id(t) not in trained)
    for name in objective.phases:
        strategy.watch(objective.network(name))
    half = str(cfg.trainer.precision) in ("bf16-mixed", "16-mixed")
    phases = passes(objective, raw, images, half, fake)
    return Work(phases, networks, fixed, size(raw) / images, accumulate, half)


def passes(objective: Any, raw: Batch, images: int, half: bool, fake: FakeTensorMode | None) -> dict[str, Phase]:
    strategy, trainer = objective.strategy, objective._trainer
    phases = {name: Phase() for name in objective.phases}
    progress = Progress("counted", "phases of a step with penalties and of one without", 2 * len(phases))
    with ExitStack() as stack:
        if fake:
            empty(objective, fake)
            raw = without_values(raw, fake)
            stack.enter_context(mock.patch.object(noise, "bits", unknown))
            stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_, **__: module))  # a late backbone
            stack.enter_context(fake)
        batch = objective.on_after_batch_transfer(raw, 0)
        for step in (0, 1):
            trainer.global_step = step
            for number, (name, loss) in enumerate(objective.phases.items()):
                interval = cycle(objective, name)
                share = 1 / interval if step == 0 else 1 - 1 / interval
                phase = phases[name] if share else Phase()
                strategy.phase, strategy.weight = phase, share
                forward, backward = Pass(share), Pass(share)
                saved, mixed = Saved(objective), torch.autocast("cpu", torch.bfloat16, enabled=half)
                with objective.only(name), ExitStack() as objective.until_backward, saved, mixed:
                    with Operators(forward, images):
                        value, _ = loss(batch)
                    with Operators(backward, images):
                        value.backward()
                torch.clear_autocast_cache()
                phase.forward.append(forward)
                phase.backward.append(backward)
                phase.saved = max(phase.saved, saved.total / images)
                for parameter in objective.network(name).parameters():
                    parameter.grad = None
                progress(step * len(phases) + number + 1)
    return phases


def cycle(objective: Any, name: str) -> int:
    """Batches from one lazy penalty of a phase to the next."""
    if name == "generator" and getattr(objective, "path_length", False):
        return objective.path_length_interval
    return penalty_cycle(objective) if name == "discriminator" else 1


def described(objective: Any, name: str) -> Network:
    network = objective.network(name)
    sizes = [p.numel() for p in network.parameters() if p.requires_grad]
    parts = [*units(network, 1_000_000), network]
    largest = max((sum(p.nbytes for p in unit.parameters()) for unit in parts[:-1]), default=4 * sum(sizes))
    probe = nn.Parameter(torch.zeros(3))
    optimizer = objective.make_optimizer[name]([probe])
    probe.grad = torch.ones(3)
    optimizer.step()
    moments = sum(isinstance(s, Tensor) and s.shape == probe.shape for s in optimizer.state[probe].values())
    return Network(4 * sum(sizes), sizes, len(parts), largest, moments, name in objective.averaged)


def size(batch: Batch) -> int:
    """Bytes of a batch as it is loaded."""
    parts = [batch.image, *(part for part in batch.condition if part is not None), batch.encoded]
    return sum(part.nbytes for part in parts if part is not None) + (size(batch.other) if batch.other else 0)
