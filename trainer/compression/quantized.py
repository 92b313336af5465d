"""Layers with weights of 8 bits, computed by int8 kernels where the machine has them, else with the same numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMATS = {"int8": (torch.int8, 127), "fp8": (torch.float8_e4m3fn, 448)}  # as stored, and its largest value
ACTIVATIONS = ("float", "dynamic", "static")
LEVELS = 255  # of an activation: uint8 from 0 on
PLAIN = [1, 1], [0, 0], [1, 1], 1  # stride, padding, dilation, groups of a 1x1 convolution
TINY = 1e-12  # a step of nothing but zeros


def has_int8_kernels() -> bool:
    """Whether this CPU adds products of bytes in one instruction (VNNI) and PyTorch has oneDNN's kernels for it.

    Without VNNI those kernels are slower than float ones, and saturate.
    """
    return hasattr(torch.ops.onednn, "qconv2d_pointwise") and torch.cpu._is_vnni_supported()


class Quantized(nn.Module):
    """A layer y = W x + b whose weights are stored in 8 bits (affine scheme, Jacob et al. 2018).

    w = scale_o * w_q, w_q int8 in [-127, 127] or fp8 e4m3 (Micikevicius et al. 2022), one scale an output channel, so
    that |w - scale_o * w_q| <= scale_o / 2 with int8.
    activations: "float", computed in float. "static": x = step * (x_q - zero), x_q in 0..255, of a step and zero that
    the pass found. "dynamic": of a step that each sample has of its own, so that no image depends on another.
    """

    weight: Tensor
    scale: Tensor
    step: Tensor
    zero: Tensor
    weight_zeros: Tensor
    bias: nn.Parameter | None
    dequantised: Tensor | None

    def __init__(self, shape: tuple[int, ...], bias: bool, weights: str, activations: str):
        super().__init__()
        self.activations = activations
        dtype, self.largest = FORMATS[weights]
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(shape[0]))
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape[0])) if bias else None)
        if activations != "float":
            self.register_buffer("step", torch.ones(()))
            self.register_buffer("zero", torch.zeros((), dtype=torch.int64))
            self.register_buffer("weight_zeros", torch.zeros(shape[0], dtype=torch.int64), persistent=False)
        self.register_buffer("dequantised", None, persistent=False)
        self.packed: Any = None

    def fill(self, layer: nn.Module, low: float = 0.0, high: float = 0.0) -> None:
        """Take the weights of a float layer of the same sizes, and the range of what it reads: low <= 0 <= high."""
        weight: Tensor = layer.weight.detach()  # type: ignore[operator]
        self.scale.copy_(weight.abs().flatten(1).amax(1).clamp_min(TINY) / self.largest)
        scaled = (weight / self.along_outputs(self.scale)).clamp(-self.largest, self.largest)
        self.weight.copy_(scaled if self.weight.is_floating_point() else scaled.round())
        if self.bias is not None:
            self.bias.data.copy_(layer.bias.detach())  # type: ignore[operator]
        if self.activations != "float":
            step = max((high - low) / LEVELS, TINY)
            self.step.fill_(step)
            self.zero.fill_(min(LEVELS - 1, max(1, round(-low / step))) if low < 0 else 0)
        self.prepare()

    def prepare(self) -> None:
        """What a call needs, made once of the weights: packed for int8 kernels, or back in float."""
        self.packed = self.dequantised = None
        if self.activations != "float":
            self.step_size, self.zero_point = float(self.step), int(self.zero)
        if self.activations != "float" and self.weight.device.type == "cpu" and has_int8_kernels():
            self.packed = self.pack(1.0 if self.activations == "dynamic" else self.step_size)
        else:
            self.dequantised = self.float_weight()

    def float_weight(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.along_outputs(self.scale)

    def along_outputs(self, vector: Tensor) -> Tensor:
        """One number for each output channel, to go with the weight."""
        return vector.view(-1, *[1] * (self.weight.dim() - 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.activations == "float":
            return self.compute(x, self.float_weight() if self.dequantised is None else self.dequantised)
        step = self.step_of(x) if self.activations == "dynamic" else self.step_size
        # halves round up, because the conversion to uint8 cuts off: one pass over memory less
        levels = (x * (1 / step)).add_(self.zero_point + 0.5).clamp_(0, LEVELS)
        if self.packed is not None and not torch.compiler.is_exporting():
            q = levels.to(torch.uint8)
            if self.activations == "static":
                return self.kernel(q, self.step_size, self.bias)
            y = self.kernel(q, 1.0, None) * step
            return y if self.bias is None else y + self.along_channels(self.bias)
        weight = self.float_weight() if self.dequantised is None else self.dequantised
        return self.compute((levels.floor() - self.zero_point) * step, weight)

    def step_of(self, x: Tensor) -> Tensor:
        """The step that holds all of a sample, with the zero that the pass found; of each row for linear layers."""
        dims = tuple(range(1, x.dim())) if x.dim() == 4 else (-1,)
        step = x.amax(dims, keepdim=True) / (LEVELS - self.zero_point)
        if self.zero_point:
            step = torch.maximum(step, x.amin(dims, keepdim=True) / -self.zero_point)
        return step.clamp_min(TINY)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.prepare()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "packed": None}  # oneDNN's layout cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare()

    def node(self) -> dict[str, Any]:
        raise NotImplementedError

    def pack(self, step: float) -> Tensor:
        raise NotImplementedError

    def kernel(self, levels: Tensor, step: float, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def along_channels(self, vector: Tensor) -> Tensor:
        raise NotImplementedError


class QuantizedConv2d(Quantized):
    """(N, in, H, W) -> (N, out, H', W'), as torch.nn.Conv2d with padding by zeros."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: list[int], stride: list[int], padding: list[int],
        dilation: list[int], groups: int, bias: bool, weights: str, activations: str,
    ):  # fmt: skip
        super().__init__((out_channels, in_channels // groups, *kernel_size), bias, weights, activations)
        self.settings = {
            "in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size, "stride": stride,
            "padding": padding, "dilation": dilation, "groups": groups, "bias": bias,
            "weights": weights, "activations": activations,
        }  # fmt: skip
        self.places = [*stride], [*padding], [*dilation], groups

    @classmethod
    def like(cls, layer: nn.Conv2d, weights: str, activations: str) -> QuantizedConv2d:
        return cls(
            layer.in_channels, layer.out_channels, [*layer.kernel_size], [*layer.stride], [*layer.padding],
            [*layer.dilation], layer.groups, layer.bias is not None, weights, activations,
        )  # fmt: skip

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.QuantizedConv2d", **self.settings}

    def pack(self, step: float) -> Tensor:
        weight = self.weight.contiguous()
        return torch.ops.onednn.qconv_prepack(weight, self.scale, step, self.zero_point, *self.places, None)

    def kernel(self, levels: Tensor, step: float, bias: Tensor | None) -> Tensor:
        return torch.ops.onednn.qconv2d_pointwise(
            levels, step, self.zero_point, self.packed, self.scale, self.weight_zeros, bias, *self.places,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, self.bias, *self.places)

    def along_channels(self, vector: Tensor) -> Tensor:
        return vector[:, None, None]


class QuantizedLinear(Quantized):
    """(..., in) -> (..., out), as torch.nn.Linear."""

    def __init__(self, in_features: int, out_features: int, bias: bool, weights: str, activations: str):
        super().__init__((out_features, in_features), bias, weights, activations)
        self.in_features, self.out_features = in_features, out_features
        self.settings = {
            "in_features": in_features, "out_features": out_features, "bias": bias,
            "weights": weights, "activations": activations,
        }  # fmt: skip

    @classmethod
    def like(cls, layer: nn.Linear, weights: str, activations: str) -> QuantizedLinear:
        return cls(layer.in_features, layer.out_features, layer.bias is not None, weights, activations)

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.QuantizedLinear", **self.settings}

    def pack(self, step: float) -> Tensor:
        # a 1x1 convolution over rows: the kernel for linear layers does not go through torch.compile
        weight = self.weight[:, :, None, None].contiguous()
        return torch.ops.onednn.qconv_prepack(weight, self.scale, step, self.zero_point, *PLAIN, None)

    def kernel(self, levels: Tensor, step: float, bias: Tensor | None) -> Tensor:
        rows = levels.reshape(1, -1, 1, levels.shape[-1]).permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last
        y = torch.ops.onednn.qconv2d_pointwise(
            rows, step, self.zero_point, self.packed, self.scale, self.weight_zeros, bias, *PLAIN,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y.permute(0, 2, 3, 1).reshape(*levels.shape[:-1], -1)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)

    def along_channels(self, vector: Tensor) -> Tensor:
        return vector
