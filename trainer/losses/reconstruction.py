"""How far a reconstruction is from its target, and the cost of the latent that carried it: one value a sample, (N,).

Reconstruction terms are means over the C*H*W values of an image in [-1, 1], so weights do not change with resolution;
those that are likelihoods are in nats per value. `gaussian_kl` is in nats per image: distortion + rate / (C*H*W) is the
negative ELBO. `gaussian_energy`, of features, is in nats per image, too.
"""

from __future__ import annotations

import math

from torch import Tensor


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error: mean |y - x|."""
    return (prediction.float() - target.float()).abs().flatten(1).mean(1)


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: mean (y - x)^2."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def charbonnier(prediction: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Smooth L1 (Charbonnier et al. 1994): mean sqrt((y - x)^2 + epsilon^2)."""
    return ((prediction.float() - target.float()).square() + epsilon**2).sqrt().flatten(1).mean(1)


def gaussian_nll(prediction: Tensor, target: Tensor, min_sigma: float = 1 / 255) -> Tensor:
    """-log N(x; y, sigma^2 I) in nats per value, with the best sigma of each image (Rybkin et al. 2021, "sigma-VAE").

    1/2 log(2 pi sigma^2) + mean (x - y)^2 / (2 sigma^2) at sigma^2 = max(mean (x - y)^2, min_sigma^2), which weighs
    reconstruction against KL without a knob. It is a density of x in [-1, 1]: for -log P of the 256-level image add
    log(127.5). min_sigma is half the step between two levels by default, as no finer error can be told; a larger one
    trains more calmly.
    """
    error = l2(prediction, target)
    variance = error.detach().clamp(min=min_sigma**2)  # at its optimum sigma has no gradient of its own
    return 0.5 * (math.log(2 * math.pi) + variance.log() + error / variance)


def gaussian_energy(prediction: Tensor, target: Tensor) -> Tensor:
    """-log N(x; y, I) in nats but for its constant, summed over all values of x and y (N, ...): 1/2 |x - y|^2."""
    return 0.5 * (prediction.float() - target.float()).square().flatten(1).sum(1)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(0, I)) in nats per image (Kingma & Welling 2014), summed over latents.

    1/2 sum (mean^2 + e^log_variance - 1 - log_variance); mean and log_variance (N, ...).
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
