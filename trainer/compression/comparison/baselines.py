"""The first stage at its fastest without any loss: what a gain is over, if it is one of the compression at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from torch import nn

from trainer.compression.search.candidate import Bench, Candidate
from trainer.errors import UserError
from trainer.exports.making import Programs
from trainer.exports.onnx import PACKAGES
from trainer.process.progress import say
from trainer.runs.export_files import PROGRAMS

EXACT = ("fold", "channels_last", "compile", "cuda_graphs")  # passes that lose nothing


def baselines(
    bench: Bench, name: str, first: Candidate, passes: Mapping[str, Any], config: dict[str, Any]
) -> dict[str, nn.Module]:
    """Ways to run the network of the first stage, `name`, without a loss: by those of the `passes` that have none, and
    on a CPU in onnxruntime, where that is installed. config: of its run. One that fails is told, and left out."""
    found: dict[str, nn.Module] = {}
    exact = {each: node for each, node in passes.items() if each in EXACT}
    if exact:
        best = bench.steps(first, exact.items())[-1]
        found[f"{name} + {' + '.join(exact)}"] = best.ready()
    on_cpu = bench.inputs[0][0].device.type == "cpu"
    if on_cpu and all(importlib.util.find_spec(package) for package in PACKAGES):
        try:
            found[f"{name} in onnxruntime"] = in_onnxruntime(first.ready(), config)
        except UserError as error:
            say(f"{name} in onnxruntime: {error}")
    return found


def in_onnxruntime(network: nn.Module, config: dict[str, Any]) -> nn.Module:
    """UserError where it cannot be exported to ONNX."""
    with TemporaryDirectory() as folder:
        programs = Programs(network, config, Path(folder), with_text=False)
        programs.make("onnx")
        if programs.failed:
            raise UserError(programs.failed[0])
        path = Path(folder, PROGRAMS["onnx"])
        runtime: nn.Module = instantiate(programs.entries[path.name]["generator"] | {"path": str(path)})
        return runtime
