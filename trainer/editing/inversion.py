"""From a picture to where a generator draws it: by an encoder or the best of several latents, then gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer import noise
from trainer.editing.canvas import Canvas, Point
from trainer.losses.reconstruction import l2
from trainer.process.progress import Progress

LEARNING_RATE = 0.05  # at first, falling linearly to nothing
PRIOR = 1e-4  # weight of the mean square of a latent: the neighbourhood of N(0, I) is what the generator knows
STYLED = 1e-2  # of that of a style's shift: what is far from all styles is drawn, but not edited as they are
PERCEPTUAL = 0.1  # of a distance of features

Distance = Callable[[Tensor, Tensor], Tensor]  # images, targets -> (N,)


def invert(
    canvas: Canvas,
    images: Tensor,
    captions: Sequence[str],
    perceptual: Distance | None = None,
    seed: int = 0,
    starts: int = 4,
    steps: int = 100,
) -> Point:
    """Points that draw images (N, 3, H, W) in [-1, 1], each by itself; `captions` say what they show.

    Minimises l2 + 0.1 perceptual + 1e-4 mean z^2 + 1e-2 mean s^2 over the latent z and the shift s of the style, as the
    projection of StyleGAN2 (Karras et al. 2020, appendix D) with the caption's own style in the place of the mean one.
    It begins where an autoencoder's encoder says; without one at `starts` latents, of which the best after a quarter of
    the steps goes on. One seed is one point.
    """
    condition, latent = canvas.read(captions), canvas.encode(images, captions)
    starts = starts if latent is None else 1
    if latent is None:
        drawn = noise.normal(seed, "inversion", torch.arange(starts), canvas.objective.latent_channels)
        latent = drawn.to(canvas.device).repeat(len(images), 1)
    rows = torch.arange(len(images), device=canvas.device).repeat_interleave(starts)
    point = Point(latent, condition.rows(rows), latent.new_zeros(len(latent), canvas.style_channels))

    def distance(drawn: Tensor, wanted: Tensor, point: Point) -> Tensor:
        loss = l2(drawn, wanted) + PRIOR * point.latent.square().mean(1)
        if canvas.style_channels:
            loss = loss + STYLED * point.shift.square().mean(1)
        return loss if perceptual is None else loss + PERCEPTUAL * perceptual(drawn, wanted)

    if starts > 1:
        wanted = images[rows]
        point, loss = descend(canvas, point, lambda drawn, at: distance(drawn, wanted, at), steps // 4, "tried starts")
        point = point.rows(loss.view(-1, starts).argmin(1) + rows[::starts] * starts)
    return descend(canvas, point, lambda drawn, at: distance(drawn, images, at), steps, "inverted")[0]


@torch.enable_grad()
def descend(
    canvas: Canvas, point: Point, loss: Callable[[Tensor, Point], Tensor], steps: int, action: str
) -> tuple[Point, Tensor]:
    """Points after Adam on latents and shifts, and their loss (N,); captions stay.

    loss: drawn images and their points to (N,), in which no row knows another.
    """
    latent, shift = (each.detach().clone().requires_grad_() for each in (point.latent, point.shift))
    optimizer = torch.optim.Adam([each for each in (latent, shift) if each.numel()], lr=LEARNING_RATE)
    progress = Progress(action, "steps", steps)
    for step in range(steps):
        at = point._replace(latent=latent, shift=shift)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        each = loss(canvas(at), at)
        optimizer.zero_grad()
        each.sum().backward()
        optimizer.step()
        progress(step + 1)
    found = point._replace(latent=latent.detach(), shift=shift.detach())
    with torch.no_grad():
        return found, loss(canvas(found), found)
