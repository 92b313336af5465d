"""A trained matcher of images and captions, to judge what others draw or to teach them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_files

_AT_ONCE = 256  # images or captions in memory


class Matching:
    """The matcher of a run of objective=matching, frozen, with its EMA weights.

    A plain object, so that an objective that keeps one does not count it among its networks or its weights.
    path: run folder or checkpoint; UserError if it is not of such a run. name: of the run's experiment.
    sha256: of the checkpoint's files.
    """

    resizer = "none"

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        self.path = checkpoint.newest(path)
        self.device = torch.device(device)
        self.objective = checkpoint.load(self.path, device)
        if not isinstance(getattr(self.objective, "matcher", None), nn.Module):
            raise UserError(f"{path} has no matcher: give a run of experiment=matching")
        self.config: dict[str, Any] = self.objective.config
        self.name = str(self.config["name"])
        content = hashlib.sha256()
        for file in checkpoint_files.files_of(self.path):
            content.update(file.read_bytes())
        self.sha256 = content.hexdigest()

    @cached_property
    def encoder(self) -> Any:
        """The text encoder that it was trained with: captions -> Condition."""
        return instantiate(self.config["text"]["encoder"], _convert_="all")

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Unit vectors (N, D) of images (N, 3, H, W) uint8 at the matcher's own resolution."""
        if images.shape[-1] != self.config["data"]["resolution"]:
            raise UserError(self._other("data.resolution", images.shape[-1], self.config["data"]["resolution"]))
        vectors = [
            self.objective.matcher.image(part.to(self.device).float().div(127.5).sub(1))[0]
            for part in images.split(_AT_ONCE)
        ]
        return nn.functional.normalize(torch.cat(vectors))

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (M, D) of captions."""
        parts = [captions[i : i + _AT_ONCE] for i in range(0, len(captions), _AT_ONCE)]
        vectors = [self.objective.matcher.text(self.encoder(part).to(self.device))[0] for part in parts]
        return nn.functional.normalize(torch.cat(vectors))

    def require(self, config: dict[str, Any]) -> None:
        """UserError unless a run of this configuration has the images and text features that the matcher reads."""
        for key in ("data.resolution", "text.encoder"):
            group, _, name = key.partition(".")
            run, own = config[group][name], self.config[group][name]
            if key == "text.encoder":  # where it keeps its cache is no matter
                run, own = ({k: v for k, v in each.items() if k != "cache_dir"} for each in (run, own))
            if run != own:
                raise UserError(self._other(key, run, own))

    def _other(self, key: str, found: object, own: object) -> str:
        return f"{key}={found}: the matcher {self.path} was trained with {own}; give a matcher of the same {key}"
