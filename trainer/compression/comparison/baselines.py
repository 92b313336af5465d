"""A stage at its fastest without a loss: what a gain is over, if it is one of the compression, and what it is of."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.search.candidate import Bench, Candidate
from trainer.errors import UserError
from trainer.exports.making import Programs
from trainer.exports.onnx import PACKAGES
from trainer.process.progress import say
from trainer.runs.export_files import PROGRAMS
from trainer.sampling.features import resized

EXACT = ("fold", "channels_last", "compile", "cuda_graphs")  # passes that lose nothing


def baselines(
    bench: Bench, name: str, first: Candidate, passes: Mapping[str, Any], config: dict[str, Any]
) -> dict[str, nn.Module]:
    """Ways to run the network of the first stage, `name`, without a loss: by those of the `passes` that have none, and
    in onnxruntime. config: of its run."""
    exact = {each: node for each, node in passes.items() if each in EXACT}
    folded = {f"{name} + {' + '.join(exact)}": bench.steps(first, exact.items())[-1].ready()} if exact else {}
    return folded | in_onnxruntime(bench, name, first, config)


def in_onnxruntime(bench: Bench, name: str, candidate: Candidate, config: dict[str, Any]) -> dict[str, nn.Module]:
    """The network of a stage in onnxruntime, on a CPU and where that is installed. If that fails a line says so.

    Not of a prior of codes, whose steps are written out one by one: minutes of export.
    """
    on_cpu = bench.inputs[0][0].device.type == "cpu"
    installed = all(importlib.util.find_spec(package) for package in PACKAGES)
    if not on_cpu or not installed or getattr(candidate.network, "chooses", False):
        return {}
    network = replace(candidate, runtime=tuple(candidate.rounding)).ready()  # without what PyTorch alone runs
    try:
        return {f"{name} in onnxruntime": as_onnx(network, config)}
    except UserError as error:
        say(f"{name} in onnxruntime: {error}")
        return {}


def as_onnx(network: nn.Module, config: dict[str, Any]) -> nn.Module:
    """UserError where it cannot be exported to ONNX."""
    with TemporaryDirectory() as folder:
        programs = Programs(network, config, Path(folder), with_text=False)
        with redirect_stdout(io.StringIO()):  # where the file is and how large: it does not stay
            programs.make("onnx")
        if programs.failed:
            raise UserError(programs.failed[0])
        path = Path(folder, PROGRAMS["onnx"])
        runtime: nn.Module = instantiate(programs.entries[path.name]["generator"] | {"path": str(path)})
    return runtime if programs.open_tokens else Whole(runtime, programs.batches[0][1].tokens.shape[1])


class Whole(nn.Module):
    """A program that takes captions of `length` tokens alone, with pads in place of those that were cut."""

    def __init__(self, program: nn.Module, length: int):
        super().__init__()
        self.program, self.length = program, length

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        images: Tensor = self.program(latent, resized(condition, self.length))
        return images
