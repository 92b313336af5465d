"""Inception-v3 as the FID of the literature uses it: the TensorFlow graph of 2015-12-05, ported."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.backbones.resize import bicubic, tf1_bilinear
from trainer.errors import UserError
from trainer.pretrained.weights import find

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
NUM_FEATURES, NUM_CLASSES, SIZE = 2048, 1008, 299
RESIZERS = {"clean": ("clean bicubic 299", bicubic), "legacy": ("legacy bilinear 299", tf1_bilinear)}
_AT_ONCE = 32  # images
_BATCH_NORM_EPS = 1e-3

# Branches of the mixed blocks: layers in their order, each (out_channels, kernel, stride of 1 if not given), a list
# where the branch forks. Their names with a number and, in a fork, a letter are the names of the published weights.
_ROW, _COLUMN = (1, 7), (7, 1)
_FORK = [(384, (1, 3)), (384, (3, 1))]
Branches = dict[str, list]


def _35(pooled: int) -> Branches:
    branches = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
    return branches | {"branch_pool": [(pooled, 1)]}


def _17(width: int) -> Branches:
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, _ROW), (192, _COLUMN)],
        "branch7x7dbl": [(width, 1), (width, _COLUMN), (width, _ROW), (width, _COLUMN), (192, _ROW)],
        "branch_pool": [(192, 1)],
    }


_TO_17: Branches = {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)]}
_TO_8: Branches = {
    "branch3x3": [(192, 1), (320, 3, 2)],
    "branch7x7x3": [(192, 1), (192, _ROW), (192, _COLUMN), (192, 3, 2)],
}
_8: Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), _FORK],
    "branch3x3dbl": [(448, 1), (384, 3), _FORK],
    "branch_pool": [(192, 1)],
}


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)  # TensorFlow's does not count the padding


def _max(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


def _conv(in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int = 1) -> nn.Conv2d:
    """With the batch normalisation folded into it, see `fold`; padded to keep the size where it does not stride."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2, width // 2) if stride == 1 else (0, 0)
    return nn.Conv2d(in_channels, out_channels, (height, width), stride, padding)


class Mixed(nn.Module):
    """Branches over one input, concatenated (Szegedy et al. 2016, figures 5, 6, 7 and 10).

    `branch_pool` begins with `pool`; where there is no such branch, the pooled input itself is the last.
    """

    def __init__(self, in_channels: int, pool: Callable[[Tensor], Tensor], branches: Branches) -> None:
        super().__init__()
        self.pool, self.branches = pool, {}
        for branch, layers in branches.items():
            channels, steps = in_channels, []
            for i, layer in enumerate(layers, 1):
                forks = layer if isinstance(layer, list) else [layer]
                number = f"_{i}" if len(layers) > 1 else ""
                names = [f"{branch}{number}{letter}" for letter in ("ab" if len(forks) > 1 else [""])]
                for name, fork in zip(names, forks, strict=True):
                    self.add_module(name, _conv(channels, *fork))
                steps.append(names)
                channels = forks[0][0]
            self.branches[branch] = steps

    def forward(self, x: Tensor) -> Tensor:
        pooled, outputs = self.pool(x), []
        for branch, steps in self.branches.items():
            ends = [pooled if branch == "branch_pool" else x]
            for names in steps:
                ends = [F.relu_(self.get_submodule(name)(ends[0])) for name in names]
            outputs += ends
        return torch.cat(outputs if "branch_pool" in self.branches else [*outputs, pooled], 1)


class Inception(nn.Module):
    """The FID network. features: (N, 2048), the average of the last block (Heusel et al. 2017).

    resizer: "clean", antialiased bicubic (Parmar et al. 2022), or "legacy", that of the original graph.
    forward: pixels (N, 3, 299, 299), (value of 0 to 255 - 128) / 128 -> features.
    """

    name, sha256, width = "inception", SHA256, NUM_FEATURES

    def __init__(self, resizer: str = "clean") -> None:
        super().__init__()
        self.resizer, self._resize = RESIZERS[resizer]
        self.Conv2d_1a_3x3 = nn.Conv2d(3, 32, 3, 2)  # 149 x 149
        self.Conv2d_2a_3x3 = nn.Conv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = nn.Conv2d(32, 64, 3, padding=1)  # 147 x 147, then 73 x 73
        self.Conv2d_3b_1x1 = nn.Conv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = nn.Conv2d(80, 192, 3)  # 71 x 71, then 35 x 35
        self.Mixed_5b = Mixed(192, _mean, _35(32))
        self.Mixed_5c = Mixed(256, _mean, _35(64))
        self.Mixed_5d = Mixed(288, _mean, _35(64))
        self.Mixed_6a = Mixed(288, _halve, _TO_17)  # 17 x 17
        self.Mixed_6b = Mixed(768, _mean, _17(128))
        self.Mixed_6c = Mixed(768, _mean, _17(160))
        self.Mixed_6d = Mixed(768, _mean, _17(160))
        self.Mixed_6e = Mixed(768, _mean, _17(192))
        self.Mixed_7a = Mixed(768, _halve, _TO_8)  # 8 x 8
        self.Mixed_7b = Mixed(1280, _mean, _8)
        self.Mixed_7c = Mixed(2048, _max, _8)  # an error of the graph's authors, which every FID repeats
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        h = F.relu_(self.Conv2d_2a_3x3(F.relu_(self.Conv2d_1a_3x3(pixels))))
        h = _halve(F.relu_(self.Conv2d_2b_3x3(h)))
        h = _halve(F.relu_(self.Conv2d_4a_3x3(F.relu_(self.Conv2d_3b_1x1(h)))))
        for name, block in self.named_children():
            h = block(h) if name.startswith("Mixed") else h
        return h.mean((2, 3))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 2048) float32 of uint8 images (N, 3, H, W) of any size, on the network's device."""
        device = self.fc.weight.device
        parts = []
        for part in images.split(_AT_ONCE):
            pixels = (self._resize(part.to(device), SIZE) - 128) / 128
            parts.append(self(pixels.contiguous(memory_format=torch.channels_last)))
        return torch.cat(parts)

    @torch.no_grad()
    def logits_of(self, features: Tensor) -> Tensor:
        """(N, 1008) for the Inception Score: without the bias, as in the original's graph and in torch-fidelity."""
        return features.to(self.fc.weight.device) @ self.fc.weight.T

    def logits(self, images: Tensor) -> Tensor:
        """`logits_of` the features of uint8 images (N, 3, H, W)."""
        return self.logits_of(self.features(images))


def fold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of convolutions, "X.conv.*" and "X.bn.*", as those of one convolution with bias, "X.*"; others stay.

    gamma (w x - mean) / sqrt(variance + eps) + beta = (s w) x + (beta - s mean), s = gamma / sqrt(variance + eps);
    in float64, as it is done once.
    """
    folded = {name: value for name, value in weights.items() if ".conv." not in name and ".bn." not in name}
    for conv in (name.removesuffix(".conv.weight") for name in weights if name.endswith(".conv.weight")):
        gamma, beta, mean, variance = (
            weights[f"{conv}.bn.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + _BATCH_NORM_EPS).sqrt()
        folded[f"{conv}.weight"] = (weights[f"{conv}.conv.weight"].double() * scale[:, None, None, None]).float()
        folded[f"{conv}.bias"] = (beta - scale * mean).float()
    return folded


def build(weights: dict[str, Tensor], resizer: str = "clean") -> Inception:
    """The network with weights under their published names, on the CPU, for evaluation only."""
    with torch.device("meta"):
        network = Inception(resizer)
    network.load_state_dict(fold(weights), assign=True)
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]


def load(resizer: str = "clean", path: str | None = None) -> Inception:
    """The network with its published weights: those at `path`, else fetched once. UserError if they cannot be had."""
    if resizer not in RESIZERS:
        raise UserError(f"backbone.resizer={resizer}: expected {' or '.join(RESIZERS)}")
    file = find(URL, SHA256, "backbone.path", path)
    return build(torch.load(file, map_location="cpu", weights_only=True), resizer)
