"""DINOv2: self-supervised features, whose Fréchet distance agrees with people better than Inception's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.backbones import hub

SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class DinoV2(hub.HubBackbone):
    """DINOv2 (Oquab et al. 2023), as the FD of Stein et al. 2023 uses it. features: (N, width), the class token's.

    model: a `transformers.Dinov2Model`. Images of any shape are brought to 224 x 224.
    """

    name = "dinov2"

    def __init__(self, model: Any, sha256: str) -> None:
        super().__init__(model, sha256, SIZE, _MEAN, _STD)
        self.width = model.config.hidden_size

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, width) float32 of uint8 images (N, 3, H, W), on the model's device: after the last normalisation."""
        return torch.cat([self.model(pixel_values=each).last_hidden_state[:, 0] for each in self.pixels(images)])


def load(path: str = "facebook/dinov2-large") -> DinoV2:
    """From a hub id or a local folder. UserError if it cannot be had."""
    model, sha256, _ = hub.load(path, "Dinov2Model")
    return DinoV2(model, sha256).eval()
