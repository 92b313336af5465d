"""The sampler beside plain PyTorch, with one network and on one machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.compression.comparison.drawn import by_sampler
from trainer.compression.comparison.latency import Network, Speed, measure
from trainer.errors import UserError
from trainer.exports.program import MAX_IMAGES, arrays
from trainer.exports.small_batches import SmallBatches
from trainer.report import table as report
from trainer.runs.export_files import is_program
from trainer.sampling.pipeline import Pipeline
from trainer.sampling.runtime import compiled
from trainer.sampling.sampler import as_pixels
from trainer.tasks.examples import examples

PLAIN, PROGRAM, ONNXRUNTIME = "plain PyTorch", "the program itself", "onnxruntime alone"
CAPTIONS = ("a red apple", "a small blue circle on a white background", "two cats in a green garden")


def compare(pipe: Pipeline, batch_sizes: Sequence[int], rounds: int, compile: bool = False) -> dict[str, Speed]:
    """The speed of each way to draw with the network of a run, plain PyTorch first. Latents and conditions to uint8.

    Of an exported program its own call comes first. UserError: it cannot be compiled again. With the pass onnxruntime
    there is a row of that alone, a bare call of its program, at all batch sizes.

    Plain PyTorch is the eager network with its weights as a state dict leaves them, under inference mode. "captions and
    seeds" makes latents and conditions as well, of captions that were encoded before.
    """
    program = is_program(pipe.path)
    if program and compile:
        raise UserError(f"compile=true: {pipe.path} is a program already; leave it out, or give the run")
    plain = pipe.objective if program else copy.deepcopy(pipe.objective)
    for weight in () if program else plain.parameters():
        weight.data = weight.data.contiguous()
    network = plain.get_submodule(plain.draws_with)

    def with_pixels(images: Callable[[Tensor, Condition], Tensor]) -> Network:
        return lambda *batch: as_pixels(images(*batch))

    def whole(latents: Tensor, condition: Condition) -> Tensor:
        return pipe.sampler(captions(len(latents)), range(len(latents)), condition.source)

    ways: dict[str, Network] = {
        PROGRAM if program else PLAIN: with_pixels(network),
        "sampler": pipe.sampler.draw,
        "of captions and seeds": whole,
        "mode=latency": by_sampler(pipe.objective, fixed=True),
    }
    if compile:
        fast = copy.deepcopy(pipe.objective)
        compiled(fast.get_submodule(fast.draws_with))
        ways["compile=true"] = by_sampler(fast, fixed=True)

    def inputs(size: int) -> tuple[Tensor, Condition]:
        device = pipe.sampler.device
        source = examples(network, torch.arange(size))
        return pipe.latents(range(size)).to(device), pipe.condition(captions(size))._replace(source=source).to(device)

    if isinstance(pipe.objective.get_submodule(pipe.objective.draws_with)._compiled_call_impl, SmallBatches):
        batches = SmallBatches(copy.deepcopy(network), MAX_IMAGES, pixels=False)
        if batches.small(*inputs(1)) is not None:
            ways[ONNXRUNTIME] = bare(batches)
    return measure(ways, inputs, batch_sizes, rounds)


def bare(batches: SmallBatches) -> Network:
    """What one writes who has a model.onnx: a call of onnxruntime, its arrays ready, and pixels by numpy."""
    ready: dict[int, Any] = {}

    def draw(latents: Tensor, condition: Condition) -> Tensor:
        if len(latents) not in ready:
            program, length = batches.program(latents, condition)
            assert program is not None
            ready[len(latents)] = program.session, arrays(latents, condition, length)
        session, given = ready[len(latents)]
        images = session.run(["images"], given)[0]
        images += 1
        images *= 127.5
        np.rint(images, out=images)
        return torch.from_numpy(images.clip(0, 255, out=images).astype(np.uint8))

    return draw


def captions(count: int) -> list[str]:
    return [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]


def table(speeds: Mapping[str, Speed]) -> str:
    """A line a way: p50 of one image, images/s at the best batch size, and how many times the first way's they are."""
    plain = next(iter(speeds.values()))
    machine = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    head = [machine, "ms, one image", "speed-up", "images/s (batch)", "speed-up"]
    rows = [
        [
            *(name, f"{speed.latency_ms['p50']:.2f}", f"{speed.latency_versus(plain):.2f}"),
            *(f"{speed.best:.0f} ({speed.best_batch})", f"{speed.versus(plain):.2f}"),
        ]
        for name, speed in speeds.items()
    ]
    return report.plain(head, rows)
