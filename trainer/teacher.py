"""A trained generator to learn from, and the features that its own training left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer import checkpoint
from trainer.batch import Condition
from trainer.errors import UserError

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

    @torch.no_grad()
    def sample(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, latent_channels) and captions."""
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
