"""A stage at its fastest without a loss: what a gain is over, if it is one of the compression, and what it is of."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trainer.compression.comparison.drawn import drawn
from trainer.compression.comparison.latency import Network
from trainer.compression.search.candidate import ONNXRUNTIME, RUNTIME, Bench, Candidate
from trainer.exports.onnx import PACKAGES
from trainer.exports.program import MAX_IMAGES
from trainer.exports.small_batches import SmallBatches


def exact(passes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the passes that lose nothing."""
    return {name: node for name, node in passes.items() if name == "fold" or RUNTIME.get(node.get("_target_"))}


def baselines(bench: Bench, name: str, first: Candidate, passes: Mapping[str, Any]) -> dict[str, Network]:
    """Ways to draw with the network of the first stage, `name`, without a loss: by those of the `passes` that have
    none, and, folded where that is among these, in onnxruntime."""
    free = {each: node for each, node in exact(passes).items() if node["_target_"] != ONNXRUNTIME}
    folded = {f"{name} + {' + '.join(free)}": drawn(bench.steps(first, free.items())[-1].ready())} if free else {}
    weights = {each: node for each, node in free.items() if each == "fold"}
    last = bench.steps(first, weights.items())[-1] if weights else first
    return folded | in_onnxruntime(bench, " + ".join([name, *weights]), last)


def in_onnxruntime(bench: Bench, name: str, candidate: Candidate) -> dict[str, Network]:
    """The network of a stage in onnxruntime, on a CPU and where that is installed. If that fails a line says so.

    Not of a prior of codes, whose steps are written out one by one: minutes of export.
    """
    on_cpu = bench.inputs[0][0].device.type == "cpu"
    installed = all(importlib.util.find_spec(package) for package in PACKAGES)
    there = any(node["_target_"] == ONNXRUNTIME for node in candidate.runtime)
    if there or not on_cpu or not installed or getattr(candidate.network, "chooses", False):
        return {}
    network = replace(candidate, runtime=tuple(candidate.rounding)).ready()  # without what PyTorch alone runs
    program = SmallBatches(network, MAX_IMAGES)
    if program.small(*bench.inputs[0]) is None:
        return {}
    network._compiled_call_impl = program
    return {f"{name} in onnxruntime": drawn(network)}
