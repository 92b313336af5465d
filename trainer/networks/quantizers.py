"""Bottlenecks of a spatial autoencoder: what of a map (N, C, h, w) comes through to the decoder.

Each has `in_channels` of the encoder's map, `out_channels` of the decoder's, `num_codes` (0 for a Gaussian) and
`num_draws(h, w)` standard normals that one image needs. `forward` is pure: (map, normals) -> `Passed`; those with codes
also `encode` a map to numbers (N, h, w) and `decode` them, and `observe` what is passed, for their running statistics.
`latents` of a map are what is rounded or drawn around; `nearest` of latents the code, of a Gaussian these themselves.

Statistics are buffers that are linear in the batch, so that their mean over ranks, taken behind each step (as a
strategy does with all buffers of a network), is what one process with the whole batch would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import UserError
from trainer.losses.reconstruction import gaussian_kl


class Passed(NamedTuple):
    """What came through: a map (N, out_channels, h, w), its codes (N, h, w) or None, and its cost (N,), to be added."""

    latent: Tensor
    codes: Tensor | None
    cost: Tensor


class Codes(nn.Module):
    """Base of those with a finite set of codes: which are used, as running shares.

    halflife_kimg: of the shares, in thousand images. `observe` collects micro-batches of a step, `update` closes it.
    """

    shares: Tensor
    seen: Tensor

    def __init__(self, num_codes: int, halflife_kimg: float):
        super().__init__()
        if halflife_kimg <= 0:
            raise UserError(f"bottleneck.halflife_kimg={halflife_kimg}: expected more than 0")
        self.num_codes = num_codes
        self.halflife = 1000 * halflife_kimg
        self.register_buffer("shares", torch.zeros(num_codes))
        self.register_buffer("seen", torch.zeros(num_codes), persistent=False)  # of this step, on this rank

    def num_draws(self, height: int, width: int) -> int:
        return 0

    def revive(self) -> None:
        """Before a step, with statistics that are those of all ranks by then."""

    @torch.no_grad()
    def observe(self, features: Tensor, codes: Tensor, normals: Tensor) -> None:
        """Counts codes (N, h, w) of a micro-batch; features: the map (N, C, h, w) that they were taken from."""
        self.seen.index_add_(0, codes.flatten(), self.seen.new_ones(()).expand(codes.numel()))

    @torch.no_grad()
    def update(self, images: int) -> None:
        """Closes a step of so many images over all ranks."""
        decay = 0.5 ** (images / self.halflife)
        self.shares.lerp_(self.seen / self.seen.sum(), 1 - decay)
        self.seen.zero_()

    def perplexity(self) -> Tensor:
        """() exp of the entropy of the running shares: as many codes, used alike, would be as hard to guess."""
        shares = self.shares / self.shares.sum().clamp(min=1e-12)
        return torch.special.entr(shares).sum().exp()

    def used(self, tokens: int) -> Tensor:
        """() fraction of the codes that came at least once in the last four half-lives or so; tokens: of an image."""
        once = math.log(2) / self.halflife / tokens
        return (self.shares > once / 16).float().mean()


class FSQ(Codes):
    """Finite scalar quantization (Mentzer et al. 2023): each channel is bounded and rounded to one of its levels.

    z^ = round(f(z)), f(z) = l tanh(z + s) - o with l = (L - 1) / 2, o = 1/2 for an even number of levels L, else 0, and
    s = atanh(o / l), so that f(0) = 0; gradients pass the rounding as if it were not there. The decoder gets
    z^ / floor(L / 2), in [-1, 1]. There is no codebook: number of a code = sum of (z^ + floor(L / 2)) of each channel
    times the product of the levels before it. levels: at least 2 each; 5 and more are advised.
    """

    reach: Tensor
    offset: Tensor
    shift: Tensor
    scale: Tensor
    basis: Tensor
    levels: Tensor

    def __init__(self, levels: Sequence[int], halflife_kimg: float = 1.0):
        if not levels or min(levels) < 2:
            raise UserError(f"bottleneck.levels={list(levels)}: expected at least one number, each at least 2")
        super().__init__(math.prod(levels), halflife_kimg)
        self.in_channels = self.out_channels = len(levels)
        count = torch.tensor([*levels])
        half = (count - 1) * (1 + 1e-3) / 2  # a little more, else tanh would reach the last level only at infinity
        offset = torch.where(count % 2 == 0, 0.5, 0.0)
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        parts = {"reach": half, "offset": offset, "shift": torch.atanh(offset / half), "scale": count // 2}
        for name, part in (parts | {"basis": basis, "levels": count}).items():
            self.register_buffer(name, part.view(-1, 1, 1), persistent=False)

    def forward(self, features: Tensor, normals: Tensor) -> Passed:
        bounded = self.latents(features) * self.scale
        rounded = bounded + (bounded.round() - bounded).detach()
        return Passed(rounded / self.scale, self.numbers(rounded), features.new_zeros(len(features)))

    def latents(self, features: Tensor) -> Tensor:
        return (self.reach * torch.tanh(features.float() + self.shift) - self.offset) / self.scale

    def nearest(self, latents: Tensor) -> Tensor:
        rounded = torch.round(latents.float() * self.scale)
        return torch.minimum(rounded.maximum(-self.scale), self.levels - 1 - self.scale) / self.scale

    def numbers(self, rounded: Tensor) -> Tensor:
        return ((rounded.detach().round().long() + self.scale) * self.basis).sum(1)

    def encode(self, features: Tensor) -> Tensor:
        return self(features, features).codes

    def decode(self, codes: Tensor) -> Tensor:
        """(N, C, h, w) of codes (N, h, w)."""
        return (codes[:, None] // self.basis % self.levels - self.scale) / self.scale


class VQ(Codes):
    """Vector quantization (van den Oord et al. 2017) with a codebook that follows its vectors (appendix A.1).

    z^ = e_k of the nearest code k, gradients pass as if z^ were z. n_k <- EMA of the share of vectors at k, m_k <- EMA
    of their sum, e_k = m_k / n_k. Cost: commitment * mean |z - e_k|^2 over the map. A code whose share falls below
    `revive_below` of an even one, as all have in the beginning, is set to a vector of the data: each image offers one,
    from a random place, to one random code, by its own noise. So all ranks revive the same with the same.
    channels: D of a code; few, as 8, keep more codes in use (Yu et al. 2022).
    """

    sums: Tensor
    sum_seen: Tensor
    offered: Tensor
    offers: Tensor

    def __init__(
        self, num_codes: int = 512, channels: int = 8, commitment: float = 0.25, halflife_kimg: float = 1.0,
        revive_below: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(num_codes, halflife_kimg)
        self.in_channels = self.out_channels = channels
        self.commitment = commitment
        self.revive_below = revive_below
        least = 1e-3 / num_codes
        self.shares.fill_(least)
        self.register_buffer("sums", torch.randn(num_codes, channels) * least)
        self.register_buffer("sum_seen", torch.zeros(num_codes, channels), persistent=False)
        self.register_buffer("offered", torch.zeros(num_codes, channels))  # sum of the vectors of the last step
        self.register_buffer("offers", torch.zeros(num_codes))  # and their number

    @property
    def codebook(self) -> Tensor:
        """(K, D)"""
        return self.sums / self.shares.clamp(min=1e-12)[:, None]

    def num_draws(self, height: int, width: int) -> int:
        return 2

    def forward(self, features: Tensor, normals: Tensor) -> Passed:
        features = features.float()
        codes = self.encode(features)
        nearest = self.decode(codes)
        cost = self.commitment * (features - nearest).square().flatten(1).mean(1)
        return Passed(features + (nearest - features).detach(), codes, cost)

    def latents(self, features: Tensor) -> Tensor:
        return features.float()

    def nearest(self, latents: Tensor) -> Tensor:
        return self.decode(self.encode(latents))

    def encode(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            vectors, codebook = features.detach().float().movedim(1, -1), self.codebook
            return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(-1)  # |z|^2 is the same for all

    def decode(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def observe(self, features: Tensor, codes: Tensor, normals: Tensor) -> None:
        super().observe(features, codes, normals)
        vectors = features.detach().float().flatten(2)  # (N, D, h*w)
        self.sum_seen.index_add_(0, codes.flatten(), vectors.transpose(1, 2).flatten(0, 1))
        draws = torch.special.ndtr(normals[:, :2]).clamp(max=1 - 1e-6)
        place, code = (draws[:, 0] * vectors.shape[2]).long(), (draws[:, 1] * self.num_codes).long()
        chosen = vectors.gather(2, place.view(-1, 1, 1).expand(-1, vectors.shape[1], 1)).squeeze(2)
        self.offered.index_add_(0, code, chosen)
        self.offers.index_add_(0, code, torch.ones_like(chosen[:, 0]))

    @torch.no_grad()
    def update(self, images: int) -> None:
        decay = 0.5 ** (images / self.halflife)
        self.sums.lerp_(self.sum_seen / self.seen.sum(), 1 - decay)
        self.sum_seen.zero_()
        self.offered /= self.seen.sum()
        self.offers /= self.seen.sum()
        super().update(images)

    @torch.no_grad()
    def revive(self) -> None:
        even = 1 / self.num_codes
        dead = (self.shares < self.revive_below * even) & (self.offers > 0)
        vectors = self.offered / self.offers.clamp(min=1e-12)[:, None]
        self.sums.copy_(torch.where(dead[:, None], vectors * even, self.sums))
        self.shares.masked_fill_(dead, even)
        self.offered.zero_()
        self.offers.zero_()


class Gaussian(nn.Module):
    """A map of diagonal Gaussians, the bottleneck of latent diffusion (Rombach et al. 2022).

    z = mean + exp(log_variance / 2) * normals; cost: kl_weight * KL(q || N(0, I)) in nats per image, over C*h*w values
    of the latent. `encode` and `decode` know no codes: `num_codes` is 0.
    """

    num_codes = 0

    def __init__(self, channels: int = 4, kl_weight: float = 1e-4):
        super().__init__()
        self.in_channels, self.out_channels = 2 * channels, channels
        self.kl_weight = kl_weight

    def num_draws(self, height: int, width: int) -> int:
        return self.out_channels * height * width

    def latents(self, features: Tensor) -> Tensor:
        return features.float().chunk(2, 1)[0]

    def nearest(self, latents: Tensor) -> Tensor:
        return latents

    def forward(self, features: Tensor, normals: Tensor) -> Passed:
        mean, log_variance = features.float().chunk(2, 1)
        log_variance = log_variance - (log_variance - log_variance.clamp(-12, 6)).detach()
        latent = mean + (0.5 * log_variance).exp() * normals.view_as(mean)
        return Passed(latent, None, self.kl_weight * gaussian_kl(mean, log_variance) / mean[0].numel())
