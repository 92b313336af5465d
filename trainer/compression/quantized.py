"""Layers with weights of 8 bits; convolutions by int8 kernels where the machine has them, else the same in float."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FORMATS = {"int8": (torch.int8, 127), "fp8": (torch.float8_e4m3fn, 448)}  # as stored, and its largest value
ACTIVATIONS = ("float", "dynamic", "static")
LEVELS = 255  # the largest of an activation's, in uint8
TINY = 1e-12  # a step of nothing but zeros


def has_int8_kernels() -> bool:
    """Whether this CPU adds products of bytes in one instruction (VNNI) and PyTorch has oneDNN's kernels for it.

    Without VNNI those kernels are slower than float ones, and saturate.
    """
    return hasattr(torch.ops.onednn, "qconv2d_pointwise") and torch.cpu._is_vnni_supported()


class Quantized(nn.Module):
    """A layer whose weights are stored in 8 bits: w = scale_o * w_q, one scale an output channel.

    weights: "int8", w_q in [-127, 127] (Jacob et al. 2018), so that |w - scale_o * w_q| <= scale_o / 2; or "fp8", e4m3
    (Micikevicius et al. 2022), rounded to 3 bits of mantissa.
    """

    weight: Tensor
    scale: Tensor
    bias: nn.Parameter | None
    in_float: Tensor | None

    def __init__(self, shape: tuple[int, ...], bias: bool, weights: str):
        super().__init__()
        dtype, self.largest = FORMATS[weights]
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype))
        self.register_buffer("scale", torch.ones(shape[0]))
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape[0])) if bias else None)
        self.in_float = None

    def fill(self, layer: nn.Module) -> None:
        """Take the weights of a float layer of the same sizes."""
        weight: Tensor = layer.weight.detach()  # type: ignore[operator]
        self.scale.copy_(weight.abs().flatten(1).amax(1).clamp_min(TINY) / self.largest)
        scaled = (weight / self.along_outputs(self.scale)).clamp(-self.largest, self.largest)
        self.weight.copy_(scaled if self.weight.is_floating_point() else scaled.round())
        if self.bias is not None:
            self.bias.data.copy_(layer.bias.detach())  # type: ignore[operator]
        self.prepare()

    def prepare(self) -> None:
        """What a call needs, made once of the weights."""
        self.in_float = self.float_weight()

    def float_weight(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.along_outputs(self.scale)

    def weight_to_compute(self) -> Tensor:
        """The float weight; an export keeps the 8 bits and converts them at each call."""
        return self.float_weight() if self.in_float is None or torch.compiler.is_exporting() else self.in_float

    def along_outputs(self, vector: Tensor) -> Tensor:
        """One number for each output channel, to go with the weight."""
        return vector.view(-1, *[1] * (self.weight.dim() - 1))

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.prepare()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.prepare()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "in_float": None, "packed": None}  # oneDNN's layout cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prepare()


class QuantizedLinear(Quantized):
    """(..., in) -> (..., out), as torch.nn.Linear, computed in float: a hundredth of a generator's work or so."""

    def __init__(self, in_features: int, out_features: int, bias: bool, weights: str):
        super().__init__((out_features, in_features), bias, weights)
        self.in_features, self.out_features = in_features, out_features
        self.settings = {"in_features": in_features, "out_features": out_features, "bias": bias, "weights": weights}

    @classmethod
    def like(cls, layer: nn.Linear, weights: str) -> QuantizedLinear:
        return cls(layer.in_features, layer.out_features, layer.bias is not None, weights)

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.QuantizedLinear", **self.settings}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_to_compute(), self.bias)


class QuantizedEmbedding(Quantized):
    """(...) ids -> (..., D), as torch.nn.Embedding, with a scale for each row; only rows that are read become float."""

    def __init__(self, num_embeddings: int, embedding_dim: int, weights: str):
        super().__init__((num_embeddings, embedding_dim), bias=False, weights=weights)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.settings = {"num_embeddings": num_embeddings, "embedding_dim": embedding_dim, "weights": weights}

    @classmethod
    def like(cls, layer: nn.Embedding, weights: str) -> QuantizedEmbedding:
        return cls(layer.num_embeddings, layer.embedding_dim, weights)

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.QuantizedEmbedding", **self.settings}

    def prepare(self) -> None:
        pass

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].to(self.scale.dtype) * self.scale[ids][..., None]


class QuantizedConv2d(Quantized):
    """(N, in, H, W) -> (N, out, H', W'), as torch.nn.Conv2d with padding by zeros.

    activations: "float", computed in float. "static": x = step * (x_q - zero), x_q in 0..255 (Jacob et al. 2018), of a
    step and a zero that the pass found. "dynamic": of a step that each sample has of its own, so that no image depends
    on another.
    """

    step: Tensor
    zero: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: list[int], stride: list[int], padding: list[int],
        dilation: list[int], groups: int, bias: bool, weights: str, activations: str,
    ):  # fmt: skip
        super().__init__((out_channels, in_channels // groups, *kernel_size), bias, weights)
        self.settings = {
            "in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size, "stride": stride,
            "padding": padding, "dilation": dilation, "groups": groups, "bias": bias,
            "weights": weights, "activations": activations,
        }  # fmt: skip
        self.places = [*stride], [*padding], [*dilation], groups
        self.activations = activations
        self.packed: Tensor | None = None
        if activations != "float":
            self.register_buffer("step", torch.ones(()))
            self.register_buffer("zero", torch.zeros((), dtype=torch.int64))

    @classmethod
    def like(cls, layer: nn.Conv2d, weights: str, activations: str) -> QuantizedConv2d:
        return cls(
            layer.in_channels, layer.out_channels, [*layer.kernel_size], [*layer.stride], [*layer.padding],
            [*layer.dilation], layer.groups, layer.bias is not None, weights, activations,
        )  # fmt: skip

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.QuantizedConv2d", **self.settings}

    def read(self, low: float, high: float) -> None:
        """The range of what it reads, low <= 0 <= high."""
        step = max((high - low) / LEVELS, TINY)
        self.step.fill_(step)
        self.zero.fill_(min(LEVELS - 1, max(1, round(-low / step))) if low < 0 else 0)
        self.prepare()

    def prepare(self) -> None:
        self.packed = None
        if self.activations == "float":
            return super().prepare()
        self.zero_point = int(self.zero)
        self.static_step = float(self.step)
        self.kernel_step = 1.0 if self.activations == "dynamic" else self.static_step
        if self.weight.device.type != "cpu" or not has_int8_kernels():
            return super().prepare()
        self.in_float = None
        self.no_zeros = torch.zeros(len(self.scale), dtype=torch.int64)
        self.packed = torch.ops.onednn.qconv_prepack(
            self.weight.contiguous(), self.scale, self.kernel_step, self.zero_point, *self.places, None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.activations == "float":
            return F.conv2d(x, self.weight_to_compute(), self.bias, *self.places)
        step = self.step_of(x) if self.activations == "dynamic" else self.static_step
        # halves round up, because the conversion to uint8 cuts off: one pass over memory less
        levels = (x * (1 / step)).add_(self.zero_point + 0.5).clamp_(0, LEVELS)
        if self.packed is None or torch.compiler.is_exporting():
            read = (levels.floor() - self.zero_point) * step
            return F.conv2d(read, self.weight_to_compute(), self.bias, *self.places)
        is_static = self.activations == "static"
        y = torch.ops.onednn.qconv2d_pointwise(
            levels.to(torch.uint8), self.kernel_step, self.zero_point, self.packed, self.scale, self.no_zeros,
            self.bias if is_static else None, *self.places, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        if is_static:
            return y
        return y * step if self.bias is None else y * step + self.bias[:, None, None]

    def step_of(self, x: Tensor) -> Tensor:
        """(N, 1, 1, 1): the step by which the levels hold all of a sample, with the zero that the pass found."""
        step = x.amax((1, 2, 3), keepdim=True) / (LEVELS - self.zero_point)
        if self.zero_point:
            step = torch.maximum(step, x.amin((1, 2, 3), keepdim=True) / -self.zero_point)
        return step.clamp_min(TINY)
