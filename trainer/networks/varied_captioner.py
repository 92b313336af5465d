"""A captioner with a latent for what an image leaves open of its caption (Wang et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.captioner import Captioner
from trainer.networks.prior import Block, Past, heads, through

START_STD = 0.02  # of the posterior's last layer: it begins near N(0, I)


class VariedCaptioner(Captioner):
    """Logits (N, L, K) of pieces, each given the image, a latent z and the pieces before it.

    A latent of Z values stands among what is seen of the image. Its posterior q(z | image, caption) is a Gaussian with
    a diagonal covariance, read by one block that sees the whole caption and the image.
    """

    def __init__(self, *captioner: Any, latent_channels: int = 8, **options: Any):
        super().__init__(*captioner, **options)
        self.latent_channels = latent_channels
        width = self.narrow.in_features
        self.latent = nn.Linear(latent_channels, width)
        self.beheld = nn.Linear(width, 2 * width, bias=False)  # keys and values of the image for the posterior
        self.reader = Block(width, self.num_heads, 1)
        self.gaussian = nn.Linear(width, 2 * latent_channels)
        nn.init.normal_(self.gaussian.weight, std=START_STD)
        nn.init.zeros_(self.gaussian.bias)

    def forward(  # type: ignore[override]
        self, image: Tensor, ids: Tensor, mask: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and mean and log variance (N, Z) of the posterior, from which noise (N, Z) draws the latent."""
        seen = self.seen(image)
        mean, log_variance = self.posterior(seen, ids, mask)
        latent = mean + noise * (log_variance / 2).exp()
        return self.predicted(ids, self.past(self.with_latent(seen, latent))), mean, log_variance

    def posterior(self, seen: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (N, Z), of what is seen (N, t, width) and captions: ids (N, L), mask (N, L)."""
        key, value = heads(self.beheld(seen), 2, self.num_heads)
        past = Past([(key, value)], torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device), 0)
        x, _ = through([self.reader], self.widen(self.pieces(ids)), self.turn, past, causal=False)
        mean = (F.rms_norm(x, x.shape[-1:]) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.gaussian(mean).chunk(2, 1)

    def begin(self, image: Tensor, latent: Tensor | None = None) -> Past:
        """What is seen of images and of latents (N, Z); without them at the middle of the prior."""
        latent = image.new_zeros(len(image), self.latent_channels) if latent is None else latent
        return self.past(self.with_latent(self.seen(image), latent))

    def with_latent(self, seen: Tensor, latent: Tensor) -> Tensor:
        return torch.cat([seen, self.latent(latent)[:, None]], 1)
