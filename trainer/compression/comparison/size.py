"""How much a network stores and computes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.batch import Condition


@dataclass
class Size:
    """parameters: values of weights; bytes: what they take in a file; multiply_adds: an image."""

    parameters: int
    bytes: int
    multiply_adds: int


def measure(network: nn.Module, inputs: tuple[Tensor, Condition], state: dict[str, Tensor]) -> Size:
    """The size of `network`, before it is compiled or captured: no operator can be counted within that.

    inputs: a batch; its multiply-adds are divided by its images. state: what is stored of the network.
    """
    stored = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Size(parameters(state), stored, multiply_adds(network, inputs))


def parameters(state: dict[str, Tensor]) -> int:
    """Values of weights in a state dict, int8 ones and their scales included.

    Bits that say where a sparse weight stands (uint8, bool) and numbers of places (int64) are none.
    """
    return sum(t.numel() for t in state.values() if t.is_floating_point() or t.dtype == torch.int8)


def multiply_adds(network: nn.Module, inputs: tuple[Tensor, Condition]) -> int:
    """Of matrix products, convolutions and attention, an image; int8 kernels count as those in float would."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=int8_formulas()) as counter:
        network(*inputs)
    return int(counter.get_total_flops()) // 2 // len(inputs[0])  # a multiply-add is two FLOPs


def int8_formulas() -> dict[Any, Any]:
    """oneDNN's operators, of which PyTorch's counter does not know: their FLOPs from shapes."""

    def convolution(x: Any, scale: Any, zero: Any, weight: tuple[int, ...], *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * prod(out_shape) * prod(weight[1:])  # weight: (C_out, C_in / groups, k, k)

    def linear(x: tuple[int, ...], *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * prod(out_shape) * x[-1]

    formulas = {"qconv2d_pointwise": convolution, "qlinear_pointwise": linear}
    known = {name: getattr(torch.ops.onednn, name, None) for name in formulas}  # None in builds without oneDNN
    return {operator: formulas[name] for name, operator in known.items() if operator is not None}
