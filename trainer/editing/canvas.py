"""A trained generator as a differentiable function of all that an edit may move: latent, caption and style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.runs.trained import record_outputs
from trainer.sampling.features import between

INSIDE = ("generator", "latents")  # what a network that holds a generator calls it
STYLES = ("style", "mapping")  # what a generator calls the network that makes its style


class Point(NamedTuple):
    """Where N images lie.

    latent: (N, Z). condition: features of N captions. shift: (N, S), added to what the generator makes its styles of
    latent and caption; (N, 0) of one without styles.
    """

    latent: Tensor
    condition: Condition
    shift: Tensor

    def rows(self, index: Any) -> Point:
        return Point(self.latent[index], self.condition.rows(index), self.shift[index])

    def towards(self, other: Point, at: Tensor) -> Point:
        """M points on the way from this one to another, one row each, at (M,): 0 is here, 1 there, beyond it goes on.

        Latents and shifts go straight, captions as of `trainer.sampling.features.between`.
        """
        latent, shift = (a + at[:, None] * (b - a) for a, b in ((self.latent, other.latent), (self.shift, other.shift)))
        if other.condition is self.condition:
            return Point(latent, self.condition.rows([0] * len(at)), shift)
        return Point(latent, between(Condition.cat([self.condition, other.condition]), at), shift)


class Canvas:
    """Draws images of points, with gradients.

    objective: as `trainer.runs.checkpoint.load` leaves it. text: captions -> Condition. A text encoder that trained
    with the generator reads captions here and not when it draws, so that what it makes of two can be mixed.
    resolution: of what is drawn. UserError for a run that draws none, from a picture, or codes.
    """

    def __init__(self, objective: Any, text: Any):
        name = objective.config.get("name")
        if not objective.draws_with:
            raise UserError(f"a run of {name} draws no images: give one that does, as of cvae or stylegan2")
        network = objective.get_submodule(objective.draws_with)
        if getattr(network, "task", None) is not None:
            raise UserError(f"a run of {name} takes a picture as it is: python -m trainer.sample source=photo.png")
        self.objective, self.text = objective, text
        self.device = next(objective.parameters()).device
        layers = [network]  # around a generator there may be its text encoder, or the decoder of a tokenizer
        while inside := next((each for each in INSIDE if hasattr(layers[-1], each)), None):
            layers.append(getattr(layers[-1], inside))
        self.reader: Any = next((each for each in layers if hasattr(each, "text")), None)
        styles = (getattr(each, key, None) for each in layers for key in STYLES)
        self.style: nn.Module | None = next((each for each in styles if each is not None), None)
        self.style_channels, self.resolution = self._looked_at(str(name))

    @torch.enable_grad()
    def _looked_at(self, name: str) -> tuple[int, int]:
        """Values of a style, 0 without one, and pixels of a side."""
        latent = torch.zeros(1, self.objective.latent_channels, device=self.device, requires_grad=True)
        with record_outputs([self.style] if self.style else []) as styles:
            image = self(Point(latent, self.read([""]), latent.new_zeros(1, 0)))
        if not image.requires_grad or not torch.autograd.grad(image.sum(), latent)[0].any():
            raise UserError(
                f"a run of {name} draws in steps that no gradient leads back through, as of codes: a picture is not "
                "found in it; give one of cvae, stylevae, stylegan2, cgan, ..."
            )
        return styles[0].shape[1] if styles else 0, int(image.shape[-1])

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> Condition:
        """Features of N captions."""
        condition = self.text([*captions]).to(self.device).float()
        return self.reader.text(condition) if self.reader is not None else condition

    def __call__(self, point: Point) -> Tensor:
        """(N, 3, H, W) in [-1, 1]."""
        with self._as_read(point.shift):
            return self.objective.sample(point.latent, point.condition)

    @contextmanager
    def _as_read(self, shift: Tensor) -> Iterator[None]:
        """Within it conditions are features already, and styles are shifted."""
        text = self.reader.text if self.reader is not None else None
        moved = self.style if shift.numel() else None
        hook = moved.register_forward_hook(lambda *call: call[2] + shift) if moved else None
        try:
            if text is not None:
                self.reader.text = nn.Identity()
            yield
        finally:
            if text is not None:
                self.reader.text = text
            if hook:
                hook.remove()

    @torch.no_grad()
    def encode(self, images: Tensor, captions: Sequence[str]) -> Tensor | None:
        """Latents (N, Z) of images (N, 3, H, W) in [-1, 1] by the encoder of an autoencoder; None without one."""
        if not hasattr(self.objective, "posterior"):
            return None
        mean, _ = self.objective.posterior(images, self.text([*captions]).to(self.device).float())
        return mean
