"""LPIPS: how different two images look, measured where VGG16 sees them."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.pretrained.weights import find, sha256

TRUNK_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
TRUNK_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
LINEAR_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"  # version 0.1 of the authors
_LINEAR_FILE = "functional/image/lpips_models/vgg.pth"  # in torchmetrics, which Lightning brings along
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions before each pooling
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's mean and deviation for -1 to 1
_AT_ONCE = 16  # pairs of images


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, equation 1), version 0.1 with VGG16.

    d(x, y) = sum over layers l of mean over positions of sum over channels c of w_lc (x_lc - y_lc)^2, where x_l is the
    l-th of five maps, at length 1 over its channels. Images keep their size; figures at two sizes differ.
    """

    name, resizer = "lpips", "none"
    sha256 = hashlib.sha256(f"{TRUNK_SHA256}\n{LINEAR_SHA256}".encode()).hexdigest()  # of two files
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, num_convs in _STAGES:
            for _ in range(num_convs):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.trunk = nn.Sequential(*layers)  # numbered as in the published weights
        self.weights = nn.ParameterList(torch.empty(1, width, 1, 1) for width, _ in _STAGES)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """(N,) float32 distances, 0 for equal ones, of uint8 images (N, 3, H, W), H and W at least 16, in pairs."""
        if images.shape != others.shape or min(images.shape[-2:]) < 16:
            raise ValueError(
                f"images {tuple(images.shape)} and {tuple(others.shape)}: expected one shape, 16 or larger"
            )
        pairs = zip(images.split(_AT_ONCE), others.split(_AT_ONCE), strict=True)
        return torch.cat([self._distances(part, other) for part, other in pairs])

    def _distances(self, images: Tensor, others: Tensor) -> Tensor:
        pixels = torch.cat([images, others]).to(self.shift.device) / 127.5 - 1
        h = ((pixels - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        distances = torch.zeros(len(images), device=h.device)
        weights = iter(self.weights)
        for layer in self.trunk:
            if isinstance(layer, nn.MaxPool2d):
                one, other = F.normalize(h, dim=1, eps=1e-10).chunk(2)
                distances += F.conv2d((one - other).square(), next(weights)).mean((1, 2, 3))
            h = layer(h)
        return distances


def build(trunk: dict[str, Tensor], linear: dict[str, Tensor]) -> Lpips:
    """The network with weights under their published names, on the CPU, for evaluation only."""
    network = Lpips().requires_grad_(False)
    named = {f"weights.{i}": linear[f"lin{i}.model.1.weight"] for i in range(len(_STAGES))}
    kept = (name for name in trunk if name.startswith("features."))  # not those of the classes
    network.load_state_dict(named | {name.replace("features", "trunk"): trunk[name] for name in kept})
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def load(path: str | None = None) -> Lpips:
    """With the published weights: VGG16's at `path`, else fetched once (528 MiB). UserError if they cannot be had."""
    package = importlib.util.find_spec("torchmetrics")  # found, not imported: only a file of it is wanted
    folder = next(iter(package.submodule_search_locations or ()), "") if package else ""
    linear = Path(folder, _LINEAR_FILE)
    if not folder or not linear.is_file() or sha256(linear) != LINEAR_SHA256:
        remedy = "pip install --force-reinstall --no-deps torchmetrics"
        raise UserError(f"LPIPS: {_LINEAR_FILE} of the package torchmetrics is absent or altered: {remedy}")
    trunk = find(TRUNK_URL, TRUNK_SHA256, "lpips", path)
    return build(*(torch.load(file, map_location="cpu", weights_only=True) for file in (trunk, linear)))
