"""Which way words lead from a point: the caption is replaced, and a judge of pictures and words has the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from trainer.editing.canvas import Canvas, Point
from trainer.editing.inversion import descend
from trainer.losses.reconstruction import l2

STEPS = 60
IN_STYLE, IN_LATENT = 0.1, 0.01  # of identity: weights of the mean squares of what style and latent move


class Judge(NamedTuple):
    """images: (N, 3, H, W) in [-1, 1] to vectors (N, D), with gradients. captions: M texts to vectors (M, D).

    sha256: of its weights, by which is kept what was measured with it.
    """

    images: Callable[[Tensor], Tensor]
    captions: Callable[[Sequence[str]], Tensor]
    sha256: str = ""

    def score(self, images: Tensor, captions: Tensor) -> Tensor:
        """(N,): cosine of each image and its caption, of which the vectors are given (N, D)."""
        return F.cosine_similarity(self.images(images), captions, dim=1)


def replaced(canvas: Canvas, start: Point, prompts: Sequence[str]) -> Point:
    """The same latents and shifts under other captions: what a text-conditioned generator does by itself."""
    return start._replace(condition=canvas.read(prompts))


def optimized(canvas: Canvas, start: Point, prompts: Sequence[str], judge: Judge, identity: float = 1.0) -> Point:
    """From a point, under its captions, to where the judge finds the prompts in what is drawn.

    Minimises 1 - cos(G(p), prompt) + identity (|G(p) - G(start)|^2 + 0.1 |s - s0|^2 + 0.01 |z - z0|^2), each a mean:
    the latent optimiser of StyleCLIP (Patashnik et al. 2021, eq. 1), with the distance of pictures in the place of that
    of faces. Where `replaced` has been before, it is what that has drawn that is kept.
    """
    wanted, first = judge.captions(prompts), canvas(start).detach()

    def loss(drawn: Tensor, at: Point) -> Tensor:
        kept = l2(drawn, first) + IN_LATENT * (at.latent - start.latent).square().mean(1)
        if canvas.style_channels:
            kept = kept + IN_STYLE * (at.shift - start.shift).square().mean(1)
        return 1 - judge.score(drawn, wanted) + identity * kept

    return descend(canvas, start, loss, STEPS, "edited")[0]
