"""A trained generator to learn from, and the features that its own training left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.runs import checkpoint

CRITICS = ("discriminator", "autoencoder.encoder")  # networks of a teacher that read images


class Teacher:
    """The objective of a run, frozen, with its EMA weights: a GAN, a VAE, or whatever draws by `sample`.

    A plain object, so that an objective that keeps one does not count it among its networks or its weights.
    path: run folder, checkpoint or export. UserError if it draws nothing.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        self.path = checkpoint.newest(path)
        self.objective = checkpoint.load(self.path, device)
        if not self.objective.draws_with:
            raise UserError(f"teacher={path} draws no images: give a run that does, as of cgan or cvae")
        self.latent_channels = int(self.objective.latent_channels)
        self.config: dict[str, Any] = self.objective.config

    def to(self, device: torch.device) -> Teacher:
        self.objective.to(device)
        return self

    def require(self, config: dict[str, Any]) -> None:
        """UserError unless a run of this configuration has the images and text features that the teacher has."""
        require_alike(config, self.config, f"teacher={self.path}")

    @torch.no_grad()
    def sample(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, latent_channels) and captions, in float32 at any precision."""
        with torch.autocast(latent.device.type, enabled=False):
            return self.objective.sample(latent, condition)

    @property
    def critic(self) -> Any:
        """Its discriminator or encoder, whose trunk `features` has learned to see such images; None if it has none."""
        modules = dict(self.objective.named_modules())
        return next((modules[name] for name in CRITICS if name in modules), None)

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (N, C, H, W) behind each stage of the critic's trunk, with gradients to the images (N, 3, H, W)."""
        with recorded(self.critic.features.downs) as maps:
            self.critic.features(image)
        return maps


def require_alike(config: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """UserError, with the key that differs, unless two runs read captions and draw images alike."""
    for group, key in (("data", "resolution"), ("text", "encoder")):
        one, two = (each.get(group, {}).get(key) for each in (config, other))
        if isinstance(one, dict) and isinstance(two, dict):  # where it keeps its cache is no matter
            one, two = ({k: v for k, v in each.items() if k != "cache_dir"} for each in (one, two))
        if one != two:
            raise UserError(f"{name} has {group}.{key}={two}, and this run {one}: they cannot be compared or taught")


@contextmanager
def recorded(modules: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with what the children of `modules` return."""
    found: list[Tensor] = []
    hooks = [child.register_forward_hook(lambda *call: found.append(call[2])) for child in modules.children()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
