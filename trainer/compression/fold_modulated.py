"""A modulated convolution as an ordinary layer between two products: what the other passes know how to change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.networks.modulation import LowPass, ModulatedConv, root_of_energy


class FoldedModulatedConv(nn.Module):
    """`ModulatedConv` with the squared norms of its kernels as they are, instead of summed up at every call.

    `layer` may be pruned, factored or stored in 8 bits: the norms stay those of the kernels that were trained.
    """

    energy: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, demodulate: bool, up: bool):
        super().__init__()
        self.settings = {
            "in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size,
            "demodulate": demodulate, "up": up,
        }  # fmt: skip
        self.layer: nn.Module = (
            nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=2, bias=False)
            if up
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        )
        self.filter = LowPass() if up else None
        if demodulate:
            self.register_buffer("energy", torch.ones(out_channels, in_channels))

    @classmethod
    def of(cls, conv: ModulatedConv) -> FoldedModulatedConv:
        out_channels, in_channels, kernel_size, _ = conv.weight.shape
        up = conv.filter is not None
        self = cls(in_channels, out_channels, kernel_size, conv.demodulate, up).to(conv.weight)
        kernel: Any = self.layer.weight
        kernel.copy_(4 * conv.weight.transpose(0, 1) if up else conv.weight)
        kernel.requires_grad_(conv.weight.requires_grad)
        if conv.demodulate:
            self.energy.copy_(conv.weight.square().sum((2, 3)))
        return self.to(memory_format=torch.channels_last).train(conv.training)  # type: ignore[call-overload]

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.FoldedModulatedConv", **self.settings}

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = self.layer(x * scale[:, :, None, None])
        if self.filter is not None:
            x = self.filter(x)
        if self.settings["demodulate"]:
            x = x * root_of_energy(scale, self.energy)[:, :, None, None]
        return x
