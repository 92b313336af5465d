"""How different two images look, in the features of a frozen network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Perceptual:
    """Mean over the maps l of a backbone of |x_l - y_l|^2 at a position, with x_l at length 1 over its channels.

    LPIPS (Zhang et al. 2018, equation 1) with weights w_l of 1. backbone: a function that loads a network whose
    `see(images)` gives the maps, as `trainer.backbones.effnet_lite.load`; asked for them when it is first needed. A
    plain object: what it holds is frozen, and in no checkpoint.
    """

    def __init__(self, backbone: Callable[[], Any]):
        self.load = backbone
        self.network: Any = None

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """(N,) float32, 0 to 4, of images (N, 3, H, W) in [-1, 1] and targets without gradients."""
        if self.network is None:
            self.network = self.load().to(images.device)
        with torch.no_grad():
            wanted = self.network.see(targets.float())
        pairs = zip(self.network.see(images.float()), wanted, strict=True)
        unit = ((F.normalize(x.float(), dim=1), F.normalize(y.float(), dim=1)) for x, y in pairs)
        distances = [(x - y).square().sum(1).flatten(1).mean(1) for x, y in unit]
        return torch.stack(distances).mean(0)
