"""Enlargement by two as one ordinary convolution at the smaller size, which has the fastest kernels everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.networks.enlarging import Enlarge


class SubPixel(nn.Module):
    """(N, in_channels, H, W) -> (N, out_channels, 2H, 2W): a 2x2 convolution to 4 phases, interleaved.

    With rows y of the convolution (padding 1, so H + 1 of them) and phases a, b of 0, 1:
    out[2i + a, 2j + b] = y_ab[i + a, j + b]. Every transposed 4x4 convolution of stride 2 and padding 1 is one, and so
    is every 3x3 convolution after nearest resizing by two, at 4/9 of its multiply-adds.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__()
        self.settings = {"in_channels": in_channels, "out_channels": out_channels, "bias": bias}
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, kernel_size=2, padding=1, bias=bias)

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.SubPixel", **self.settings}

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (N, H+1, W+1, a, b, C)
        if torch.compiler.is_exporting():  # the same in what every runtime has
            h, w = x.shape[2:]
            rows = [torch.stack([y[:, a : a + h, b : b + w, a, b] for b in (0, 1)], 3) for a in (0, 1)]
            return torch.stack(rows, 2).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)
        y = y.unfold(1, 2, 1).diagonal(0, 3, 6).unfold(2, 2, 1).diagonal(0, 3, 6)  # (N, H, W, C, a, b), a view
        return y.permute(0, 1, 4, 2, 5, 3).flatten(1, 2).flatten(2, 3).permute(0, 3, 1, 2)

    def for_onnx(self) -> nn.Module:
        """A transposed convolution: one call in onnxruntime, where this is thirty."""
        if type(self.conv) is not nn.Conv2d:
            return self
        phases = self.conv.weight.detach().unflatten(0, (2, 2, -1))
        biases = None if self.conv.bias is None else self.conv.bias.detach().unflatten(0, (4, -1))
        if biases is not None and not (biases == biases[0]).all():
            return self
        channels, in_channels = phases.shape[2:4]
        layer = nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1, bias=biases is not None).to(phases)
        with torch.no_grad():
            for a in (0, 1):
                for b in (0, 1):
                    layer.weight[:, :, 1 - a :: 2, 1 - b :: 2] = phases[a, b].transpose(0, 1).flip(2, 3)
            if layer.bias is not None and biases is not None:
                layer.bias.copy_(biases[0])
        return layer


def is_subpixel(layer: nn.Module) -> bool:
    """Whether `of_transposed` takes it."""
    return isinstance(layer, nn.ConvTranspose2d) and (
        layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups
    ) == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1)  # fmt: skip


def behind_resizing(layer: nn.Module) -> nn.Conv2d | None:
    """The convolution that `of_resized` takes, of one that follows nearest resizing by two."""
    conv = layer[1] if type(layer) is Enlarge else None
    return conv if type(conv) is nn.Conv2d else None


def of_transposed(layer: nn.ConvTranspose2d) -> SubPixel:
    """The same as a transposed 4x4 convolution: phase a reads its taps 3 - a and 1 - a, in this order."""
    taps = [[3 - a, 1 - a] for a in (0, 1)]
    phases = [layer.weight[:, :, taps[a]][:, :, :, taps[b]].transpose(0, 1) for a in (0, 1) for b in (0, 1)]
    return _filled(phases, layer.bias)


def of_resized(layer: nn.Conv2d) -> SubPixel:
    """The same as nearest resizing by two, then a 3x3 convolution with padding 1: taps that see one pixel are added."""
    seen = layer.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (phase, new tap, old tap)
    phases = [torch.einsum("oikl,pk,ql->oipq", layer.weight, seen[a], seen[b]) for a in (0, 1) for b in (0, 1)]
    return _filled(phases, layer.bias)


def _filled(phases: list[Tensor], bias: Tensor | None) -> SubPixel:
    out_channels, in_channels = phases[0].shape[:2]
    layer = SubPixel(in_channels, out_channels, bias is not None).to(phases[0])
    with torch.no_grad():
        layer.conv.weight.copy_(torch.cat(phases))
        if bias is not None:
            layer.conv.bias.copy_(bias.repeat(4))  # type: ignore[union-attr]
    return layer.requires_grad_(phases[0].requires_grad).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
