"""Quantization: layers whose weights take 8 bits, and which compute in int8 where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import log10
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.quantized import (
    ACTIVATIONS,
    FORMATS,
    LEVELS,
    Quantized,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    has_int8_kernels,
)
from trainer.compression.structure import as_loaded
from trainer.compression.subpixel import is_subpixel, of_transposed
from trainer.errors import UserError
from trainer.process.progress import Progress, say

SAMPLES = 1 << 14  # activations of a layer and batch that its range is chosen by
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # parts of the range from the least to the largest that are tried


def quantize(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    weights: str = "int8",
    activations: str = "static",
    skip: Sequence[str] = (),
    psnr: float | None = None,
) -> nn.Module:
    """The network with its convolutions, linear layers and words in 8 bits, as `quantized.Quantized` describes them.

    inputs: batches that activations are measured on. weights: "int8" or "fp8". activations: "float" stores 8 bits and
    computes in float; "static" and "dynamic" compute convolutions in int8. skip: names of parts that stay as
    they are. psnr: in dB; layers stay as they are, too, those first whose rounding moves the images of `inputs` most
    for each weight of theirs, until the weights of the others together leave these images so near.
    Transposed convolutions become sub-pixel ones first. UserError where nothing is left to do.
    """
    if weights not in FORMATS or activations not in ACTIVATIONS or (weights == "fp8" and activations != "float"):
        raise UserError(
            f"weights={weights} with activations={activations}: expected int8 with {', '.join(ACTIVATIONS)}, "
            "or fp8 with float"
        )
    on_cpu = next(network.parameters()).device.type == "cpu"
    if activations != "float" and not (on_cpu and has_int8_kernels()):
        say(
            "int8: there are no int8 kernels here (a CPU's VNNI): it computes the same in float and rounds "
            "besides, which is slower than without this pass; activations=float (int8_weights) keeps the size alone"
        )
    if weights == "fp8":
        say("fp8: no library has convolutions of fp8; weights are stored in 8 bits and computed in float")
    network = deepcopy(network)
    with torch.no_grad():
        for path, module in quantizable_layers(network, skip):
            if is_subpixel(module):
                network.set_submodule(path, of_transposed(module))  # type: ignore[arg-type]
        layers = {path: layer for path, layer in quantizable_layers(network, skip) if is_quantizable(layer)}
        if not layers:
            raise UserError(f"quantize: {type(network).__name__} has no float layer left: one pass of 8 bits is enough")
        if psnr is not None:
            layers = within(psnr, network, layers, inputs, weights)
        convolutions = {path: layer for path, layer in layers.items() if isinstance(layer, nn.Conv2d)}
        ranges = {} if activations == "float" else calibrated(network, convolutions, inputs)
        if activations != "float":  # what draws nothing, as the small images of attngan, stays as it is
            layers = {path: layer for path, layer in layers.items() if path in ranges or path not in convolutions}
        for path, layer in layers.items():
            small = in_8_bits(layer, weights, activations)
            if path in ranges:
                small.read(*ranges[path])  # type: ignore[operator]
            network.set_submodule(path, small.train(layer.training))
    return as_loaded(network.requires_grad_(False))


def quantizable_layers(network: nn.Module, skip: Sequence[str]) -> list[tuple[str, nn.Module]]:
    return [
        (path, module)
        for path, module in network.named_modules()
        if not any(path == part or path.startswith(f"{part}.") for part in skip)
    ]


def is_quantizable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    return isinstance(layer, nn.Linear) or type(layer) is nn.Embedding


def within(
    psnr: float, network: nn.Module, layers: dict[str, Any], inputs: Sequence[tuple[Tensor, Condition]], weights: str
) -> dict[str, Any]:
    """Those of the layers whose weights in 8 bits, together, leave images at least `psnr` dB near.

    What each adds to the squared error of the images is measured alone; small errors of several add up.
    """
    drawn = [network(*batch) for batch in inputs]
    progress, errors = Progress("8 bits: tried with", "layers", len(layers)), {}
    for path, layer in layers.items():
        whole = layer.weight.data
        layer.weight.data = in_8_bits(layer, weights, "float").float_weight()
        off = [(network(*batch) - images).square().mean() for batch, images in zip(inputs, drawn, strict=True)]
        layer.weight.data = whole
        errors[path] = float(torch.stack(off).mean())
        progress(len(errors))
    sizes = {path: layer.weight.numel() for path, layer in layers.items()}
    kept, used = [], 0.0
    for path in sorted(layers, key=lambda path: errors[path] / sizes[path]):
        if decibels(used + errors[path]) >= psnr:
            used += errors[path]
            kept.append(path)
    if not kept:
        nearest = decibels(min(errors.values()))
        raise UserError(f"psnr={psnr}: in 8 bits no layer leaves images so near; expected up to {nearest:.0f}")
    share = sum(sizes[path] for path in kept) / sum(sizes.values())
    say(f"8 bits: {len(kept)} of {len(layers)} layers, {share:.0%} of their weights, {decibels(used):.0f} dB")
    return {path: layers[path] for path in layers if path in kept}


def decibels(error: float) -> float:
    """Of the squared error of images in [-1, 1]."""
    return 10 * log10(4 / max(error, 1e-12))


def in_8_bits(layer: nn.Module, weights: str, activations: str) -> Quantized:
    small: Quantized
    if isinstance(layer, nn.Conv2d):
        small = QuantizedConv2d.like(layer, weights, activations)
    elif isinstance(layer, nn.Embedding):
        small = QuantizedEmbedding.like(layer, weights)
    else:
        small = QuantizedLinear.like(layer, weights)  # type: ignore[arg-type]
    small.to(layer.weight.device)  # type: ignore[arg-type]
    small.fill(layer)
    return small


def calibrated(
    network: nn.Module, layers: dict[str, nn.Conv2d], inputs: Sequence[tuple[Tensor, Condition]]
) -> dict[str, tuple[float, float]]:
    """The range of what each layer reads, if anything, that has the least squared error, clipping against rounding."""
    seen: dict[str, list[Tensor]] = {path: [] for path in layers}

    def watch(path: str) -> torch.utils.hooks.RemovableHandle:
        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            values = args[0].permute(0, 2, 3, 1).reshape(-1)
            extremes = torch.stack([values.min(), values.max()])
            # an odd stride passes over all channels
            seen[path].append(torch.cat([extremes, values[:: (values.numel() // SAMPLES) | 1]]).float())

        return layers[path].register_forward_pre_hook(keep)

    hooks = [watch(path) for path in layers]
    try:
        for batch in inputs:
            network(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: closest(torch.cat(values)) for path, values in seen.items() if values}


def closest(values: Tensor) -> tuple[float, float]:
    """(low, high) around 0 of the least squared error of values in 256 levels; low is 0 if none is negative."""
    least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))

    def error(part: tuple[float, float]) -> float:
        low, high = part
        step = max((high - low) / LEVELS, 1e-12)
        zero = round(-low / step)
        levels = (values / step + zero).round().clamp(0, LEVELS)
        return float(((levels - zero) * step - values).square().mean())

    return min(((least * a, most * b) for a in CLIPS for b in CLIPS), key=error)
