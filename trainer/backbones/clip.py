"""CLIP: images and captions in one space, whose cosine says how well they match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.backbones import hub
from trainer.errors import UserError

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images


class Clip(hub.HubBackbone):
    """CLIP (Radford et al. 2021). features: (N, width), images in the shared space, not normalised.

    model: a `transformers.CLIPModel`; tokenizer: its own. Images of any shape are brought to the model's square.
    """

    name = "clip"

    def __init__(self, model: Any, tokenizer: Any, sha256: str) -> None:
        super().__init__(model, sha256, model.config.vision_config.image_size, _MEAN, _STD)
        self.tokenizer, self.width = tokenizer, model.config.projection_dim

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, width) float32 of uint8 images (N, 3, H, W), on the model's device."""
        seen = (self.model.vision_model(pixel_values=pixels).pooler_output for pixels in self.pixels(images))
        return torch.cat([self.model.visual_projection(each) for each in seen])

    def vectors(self, images: Tensor) -> Tensor:
        """(N, width) of images (N, 3, H, W) in [-1, 1], with gradients to them."""
        seen = self.model.vision_model(pixel_values=self.unrounded(images)).pooler_output
        return self.model.visual_projection(seen)

    def vision(self) -> Any:
        return self.model.vision_model

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Tensor:
        """(N, width) float32 of captions in the same space, not normalised; cut at the model's length, 77 tokens."""
        parts, limit = [], self.model.config.text_config.max_position_embeddings
        for begin in range(0, len(captions), hub.IMAGES_AT_ONCE):
            part = list(captions[begin : begin + hub.IMAGES_AT_ONCE])
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            device = self.mean.device
            output = self.model.text_model(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            )
            parts.append(self.model.text_projection(output.pooler_output))
        return torch.cat(parts)


def load(path: str = "openai/clip-vit-base-patch32") -> Clip:
    """From a hub id or a local folder. UserError if it cannot be had."""
    import transformers

    model, sha256, folder = hub.load(path, "CLIPModel")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: its tokenizer cannot be loaded: {reason}") from error
    return Clip(model, tokenizer, sha256).eval()
