"""Gradient penalties on a discriminator D and on a generator: one value a sample, (N,), unweighted.

An exact penalty differentiates twice: run D's forward eager, in float32 and outside autocast. It assumes that the logit
of sample i depends on image i alone (no batch statistics in D). Nothing here draws random numbers: they are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Discriminate = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> logits (N,)


def gradient_norm2(logits: Tensor, inputs: Tensor) -> Tensor:
    """||grad_x D(x)||^2 a sample, (N,) float32, itself differentiable.

    logits: (N,), computed from inputs (N, ...), which must have had `requires_grad_()` called before D's forward.
    """
    assert inputs.requires_grad, "call requires_grad_() on the images before the discriminator's forward"
    with torch.autocast(inputs.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return gradient.float().square().flatten(1).sum(1)


def r1(logits: Tensor, real: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): ||grad_x D(x)||^2 on real images. The usual term is gamma / 2 times its mean."""
    return gradient_norm2(logits, real)


def r2(logits: Tensor, fake: Tensor) -> Tensor:
    """R2 (Mescheder et al. 2018): ||grad_x D(x)||^2 on generated images, detached from the generator."""
    return gradient_norm2(logits, fake)


def approximate_r1(discriminate: Discriminate, images: Tensor, logits: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """R1 (or R2 on generated images) by a finite difference: no double backward, so it compiles and needs no whole D.

    (D(x) - D(x + sigma n))^2 / sigma^2, n ~ N(0, I). Lin et al. 2025 (Seaweed-APT) write ||D(x) - D(N(x, sigma I))||^2
    with a weight of 100 at sigma = 0.01 (here 100 * 0.01^2 = 0.01). Divided by sigma^2 its expectation tends to
    ||grad_x D(x)||^2 as sigma goes to 0; D bends within a larger one. After 10 kimg of cgan_shapes sigma = 0.01 gave
    6.7 times the exact value on real images and 1.2 times on generated ones, sigma = 0.1 gave 23 to 56 times: a weight
    does not mean quite what it means for `r1`. One draw varies as chi^2 with one degree.

    Both D(x) are float32, outside autocast: bf16 would round more of them than their difference is.
    images: (N, C, H, W); logits: (N,), D(images) that the loss has already computed, graph and all, taken where they
    are float32; noise: like images.
    """
    again = torch.is_autocast_enabled(images.device.type)
    with torch.autocast(images.device.type, enabled=False):
        still = discriminate(images) if again else logits
        return ((discriminate(images + sigma * noise) - still) / sigma).square()


def gradient_penalty(
    discriminate: Discriminate, real: Tensor, fake: Tensor, mix: Tensor, target: float = 1.0
) -> Tensor:
    """WGAN-GP (Gulrajani et al. 2017): (||grad_x D(x)|| - target)^2 at x = u real + (1 - u) fake; usual weight 10.

    mix: (N,) in [0, 1), the u of each pair.
    """
    weight = mix.view(-1, *[1] * (real.dim() - 1)).to(real.dtype)
    between = (weight * real + (1 - weight) * fake).detach().requires_grad_()
    with torch.autocast(between.device.type, enabled=False):
        norm2 = gradient_norm2(discriminate(between), between)
    return ((norm2 + 1e-12).sqrt() - target).square()  # the slope of sqrt at 0 is infinite


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """|J_w^T y| of a generator's images at its styles w, eq. 4 of Karras et al. 2020, differentiable: (N,).

    The regulariser is (lengths - a)^2 with a their running mean. J_w^T y is the gradient of <G(w), y>, for y normal and
    divided by sqrt(H W), so that a length means the same at any resolution; its square is a mean over the convolutions.
    images: (N, C, H, W) made, graph and all, of styles (N, num_styles, S), run as for `r1`; noise: y, like images.
    """
    with torch.autocast(images.device.type, enabled=False):
        along = (images.float() * noise).sum() / (images.shape[2] * images.shape[3]) ** 0.5
        (slope,) = torch.autograd.grad(along, styles, create_graph=True)
        return (slope.float().square().sum(2).mean(1) + 1e-12).sqrt()  # the slope of sqrt at 0 is infinite
