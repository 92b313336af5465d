"""Backbones that are Hugging Face models: a folder or a hub id, the checksum of the weights, the frozen model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.backbones.resize import bicubic, rounded_bicubic
from trainer.errors import UserError
from trainer.pretrained import hub
from trainer.pretrained.weights import sha256
from trainer.text.models import quiet_transformers

IMAGES_AT_ONCE = 32
FILES = "config.json and *.safetensors"


class HubBackbone(nn.Module):
    """A model of `transformers` that reads images of `size` pixels, resized so and normalised by `mean` and `std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, sha256: str, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model, self.sha256, self.size = model, sha256, size
        self.resizer = f"bicubic {size}"
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1))

    def pixels(self, images: Tensor) -> Iterator[Tensor]:
        """Parts (n, 3, size, size) float32 of uint8 images (N, 3, H, W), on the model's device."""
        for part in images.split(IMAGES_AT_ONCE):
            yield (rounded_bicubic(part.to(self.mean.device), self.size) - self.mean) / self.std

    def unrounded(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) of images (N, 3, H, W) in [-1, 1], with gradients to them."""
        return (bicubic(images * 127.5 + 127.5, self.size) - self.mean) / self.std

    def see(self, images: Tensor) -> list[Tensor]:
        """Four maps (N, D, h, w) of patches, from a quarter of the layers to all, of images (N, 3, H, W) in [-1, 1].

        With gradients to the images, which are resized without rounding.
        """
        layers = self.vision()(pixel_values=self.unrounded(images), output_hidden_states=True).hidden_states
        depth, side = len(layers) - 1, math.isqrt(layers[0].shape[1] - 1)
        chosen = [layers[max(1, depth * quarter // 4)][:, 1:] for quarter in (1, 2, 3, 4)]  # without the class token
        return [each.unflatten(1, (side, side)).permute(0, 3, 1, 2) for each in chosen]

    def vision(self) -> Any:
        """The part of the model that reads images."""
        return self.model


def load(path: str, model_class: str) -> tuple[Any, str, Path]:
    """(model, sha256 of its weights, its folder) of a folder or hub id; float32, frozen, on the CPU.

    The hub is asked only for what is not on this machine. UserError: out of reach, of another kind, incomplete.
    """
    import transformers

    remedy = "check id and network, or give a local folder in its place"
    folder = hub.find(path, "", FILES, "facebook/dinov2-base", remedy, lambda each: bool(_weights(each)), _wanted)
    try:
        digest = _digest(folder)
        with quiet_transformers():
            found = transformers.AutoConfig.from_pretrained(folder).model_type
            loader = getattr(transformers, model_class)
            if found != loader.config_class.model_type:
                raise UserError(f"{path}: a {found} model, expected {loader.config_class.model_type}")
            model, report = loader.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
    except UserError:
        raise
    except Exception as error:  # safetensors raises exceptions of its own for broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be loaded as {model_class}: {reason}") from error
    if unset := {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}:  # would stay random
        raise UserError(f"{path}: lacks {len(unset)} weights, as {min(unset)}: give a complete model")
    return model.float().eval().requires_grad_(False), digest, folder


def _weights(folder: Path) -> list[Path]:
    """Those that transformers would load; empty where the configuration or all weights are missing."""
    safe = sorted(folder.glob("model*.safetensors"))
    return (safe or sorted(folder.glob("pytorch_model*.bin"))) if (folder / "config.json").is_file() else []


def _digest(folder: Path) -> str:
    """sha256 of the weight file; of all their digests, one a line, where there are several."""
    digests = [sha256(file) for file in _weights(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _wanted(names: list[str]) -> list[str]:
    is_safe = any(name.startswith("model") and name.endswith(".safetensors") for name in names)
    return ["*.json", "*.txt", "model*.safetensors" if is_safe else "pytorch_model*.bin"]
