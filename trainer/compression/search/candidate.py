"""A generator on its way through passes, and the bench at which they are applied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from trainer import noise
from trainer.batch import Condition
from trainer.compression.comparison.drawn import drawn
from trainer.compression.search import batches
from trainer.compression.search.finetune import finetune
from trainer.errors import UserError
from trainer.evaluation.protocol import spread
from trainer.exports.ahead_of_time import AheadOfTime
from trainer.exports.onnx import providers
from trainer.exports.small_batches import ON_CPU, SmallBatches
from trainer.runs.checkpoint import ready_to_draw
from trainer.sampling.batch_invariance import FULL
from trainer.sampling.runtime import stored
from trainer.sampling.sampler import Sampler
from trainer.tasks.examples import examples

# passes that change how a network runs, and are applied again at every load; whether images stay, within a grey level
ONNXRUNTIME = "trainer.exports.small_batches.onnxruntime"
AOT = "trainer.exports.ahead_of_time.aot"
RUNTIME = {
    "trainer.sampling.runtime.half": False,
    "trainer.sampling.runtime.channels_last": True,
    "trainer.sampling.runtime.compiled": True,
    "trainer.sampling.runtime.cuda_graphs": True,
    ONNXRUNTIME: True,
    AOT: True,
}
FINETUNE = "finetune"
UNTRAINABLE = ("int8", "int8_dynamic", "int8_weights", "fp8", "sparsify")  # a training would leave or undo these
ROWS = 16  # images of a batch that passes look at

REPEATED = r"\b(\w+(?:\+\w+)?)(?:\+\1\b)+"  # one or two passes, more than once

Inputs = tuple[Tensor, Condition]


def repeated(found: re.Match[str]) -> str:
    return f"{(len(found[0]) + 1) // (len(found[1]) + 1)}({found[1]})"


@dataclass(frozen=True)
class Candidate:
    """network: as it is saved. passes: names of what made it, in order. runtime: nodes of passes on how it is run."""

    network: nn.Module
    passes: tuple[str, ...] = ()
    runtime: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """As 2(prune+finetune)+fold."""
        return re.sub(REPEATED, repeated, "+".join(self.passes)) or "as trained"

    def state(self) -> dict[str, Tensor]:
        """The state dict as it goes into a file."""
        return stored(self.network.state_dict(), list(self.runtime))

    def ready(self) -> nn.Module:
        """A copy of the network that runs as it will after loading."""
        network = deepcopy(self.network)
        ready_to_draw(network)
        for node in self.runtime:
            network = instantiate(node, _convert_="all")(network)
        return network

    def draws_as(self, other: Candidate) -> bool:
        """Whether both draw the same images, within a grey level: they differ in nothing but how one network is run."""
        return self.network is other.network and self.rounding == other.rounding

    @property
    def rounding(self) -> list[dict[str, Any]]:
        return [node for node in self.runtime if not RUNTIME[node["_target_"]]]


@dataclass(frozen=True)
class Bench:
    """run: the checkpoint. inputs: batches of latents and whole conditions. folder: for fine-tuning."""

    run: Path
    inputs: Sequence[Inputs]
    folder: Path

    def apply(self, candidate: Candidate, name: str, node: Mapping[str, Any]) -> Candidate:
        """The candidate after one more pass, `node` its configuration."""
        passes = (*candidate.passes, name)
        if node.get("_target_") in RUNTIME:
            measured = {ONNXRUNTIME: self.measured, AOT: self.measured_aot}.get(node["_target_"])
            found = measured(candidate, node) if measured else dict(node)
            return replace(candidate, passes=passes, runtime=(*candidate.runtime, *([found] if found else [])))
        if name == FINETUNE:
            folder = self.folder / f"{len([*self.folder.glob('*')]):02}-after-{(candidate.passes or ('nothing',))[-1]}"
            return replace(
                candidate, passes=passes, network=finetune(self.run, candidate.network, node["kimg"], folder)
            )
        change: Callable[..., nn.Module] = instantiate(node, _convert_="all")
        return replace(candidate, passes=passes, network=change(candidate.network, self.without_pads))

    def steps(self, candidate: Candidate, nodes: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Candidate]:
        """The candidate, and what it is after each of the passes, one upon the other."""
        nodes = list(nodes)
        names = [name for name, _ in nodes]
        for name in {*names} & {*UNTRAINABLE} if FINETUNE in names else ():
            if names.index(name) < names.index(FINETUNE):
                raise UserError(f"compression={names}: training would leave or undo {name}; put {FINETUNE} before it")
        if ONNXRUNTIME in [node.get("_target_") for _, node in nodes[:-1]]:
            raise UserError(f"compression={names}: what comes behind onnxruntime would draw in its place; put it last")
        behind = [node.get("_target_") for _, node in nodes if node.get("_target_") != ONNXRUNTIME]
        if AOT in behind[:-1]:
            raise UserError(f"compression={names}: aot compiles what is before it; put it last, or before onnxruntime")
        found = [candidate]
        for name, node in nodes:
            found.append(self.apply(found[-1], name, node))
        return found

    def measured(self, candidate: Candidate, node: Mapping[str, Any]) -> dict[str, Any]:
        """The node of onnxruntime with the largest batch that it draws sooner than the candidate; {} if there is none.

        Of several providers of a CPU the one that is quicker for all of these. What the user gave stays.
        """
        if node.get("max_batch"):
            return dict(node)
        found: dict[str, Any] = {}
        before, able = drawn(candidate.ready()), [each for each in ON_CPU if each == "cpu" or each in providers()]
        for provider in [node["provider"]] if node.get("provider") else able:
            mine = {**node, "provider": provider}
            other = instantiate({**mine, "max_batch": batches.TRIED[-1]}, _convert_="all")(candidate.ready())
            call = other._compiled_call_impl  # where it cannot be, a line has said why, and noise would choose a number
            if not isinstance(call, SmallBatches) or call.small(*self.batch(1)) is None:
                continue
            name = "onnxruntime" if provider == "cpu" else f"onnxruntime by {provider}"
            size = batches.largest(name, before, drawn(other), self.batch)
            if size and size >= found.get("max_batch", 0):
                call.max_batch, before, found = size, drawn(other), {**mine, "max_batch": size}
        return found

    def measured_aot(self, candidate: Candidate, node: Mapping[str, Any]) -> dict[str, Any]:
        """The node of aot with the sizes, of one image and full batches, that it draws sooner; {} if there is none."""
        if node.get("batch_sizes"):
            return dict(node)
        other = instantiate({**node, "batch_sizes": [1, FULL]}, _convert_="all")(candidate.ready())
        call = other._compiled_call_impl
        able = isinstance(call, AheadOfTime) and [size for size in (1, FULL) if call.program(*self.batch(size))]
        found = batches.quicker("aot", drawn(candidate.ready()), drawn(other), self.batch, able) if able else []
        return {**node, "batch_sizes": found} if found else {}

    @property
    def without_pads(self) -> list[Inputs]:
        """Those that passes look at: no more tokens than the longest caption has."""
        longest = max(condition.longest for _, condition in self.inputs)
        return [(latents, condition.cut(longest)) for latents, condition in self.inputs]

    def batch(self, count: int) -> Inputs:
        """A batch of any size, of the inputs again and again."""
        latents = torch.cat([latent for latent, _ in self.inputs])
        condition = Condition.cat(each for _, each in self.inputs)
        index = torch.arange(count, device=latents.device) % len(latents)
        return latents[index], condition.rows(index)


def calibration(sampler: Sampler, captions: Sequence[str], count: int) -> list[Inputs]:
    """Batches of 16 latents and conditions of `count` of the captions, evenly spread, on the sampler's device."""
    chosen = [captions[i] for i in spread(len(captions), max(ROWS, count))]
    latents = noise.normal(0, "calibration", torch.arange(len(chosen)), sampler.objective.latent_channels)
    conditions = sampler.conditions(chosen)
    conditions = conditions._replace(source=examples(sampler.network, torch.arange(len(chosen))))
    parts = [slice(i, i + ROWS) for i in range(0, len(chosen) - ROWS + 1, ROWS)]
    return [(latents[part].to(sampler.device), conditions.rows(part).to(sampler.device)) for part in parts]
