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
from trainer.size import Size

INSIDE = ("generator", "latents")  # what a network that holds a generator calls it
STYLES = ("style", "mapping")  # what a generator calls the network that makes its style


class Point(NamedTuple):
    """Where N images lie.

    latent: (N, Z). condition: features of N captions. shift: (N, S), added to what the generator makes its styles of
    latent and caption; (N, 0) of one without styles. channels: (N, M), added to what its layers make of the style, the
    coordinates of StyleGAN's style space S (Wu et al. 2021); None moves none.
    """

    latent: Tensor
    condition: Condition
    shift: Tensor
    channels: Tensor | None = None

    def rows(self, index: Any) -> Point:
        channels = self.channels if self.channels is None else self.channels[index]
        return Point(self.latent[index], self.condition.rows(index), self.shift[index], channels)

    def towards(self, other: Point, at: Tensor) -> Point:
        """M points on the way from this one to another, one row each, at (M,): 0 is here, 1 there, beyond it goes on.

        Latents, shifts and channels go straight, captions as of `trainer.sampling.features.between`.
        """
        latent, shift = (a + at[:, None] * (b - a) for a, b in ((self.latent, other.latent), (self.shift, other.shift)))
        channels = other.channels
        if channels is not None:
            first = 0 if self.channels is None else self.channels
            channels = first + at[:, None] * (channels - first)
        if other.condition is self.condition:
            return Point(latent, self.condition.rows([0] * len(at)), shift, channels)
        return Point(latent, between(Condition.cat([self.condition, other.condition]), at), shift, channels)


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
        self.modulations = self._modulations(layers[-1])
        self.style_channels, self.sizes, self.resolution = self._looked_at(str(name))

    def _modulations(self, network: nn.Module) -> list[nn.Module]:
        """What makes the channels that a global direction moves, in the order in which it is called.

        The layers that scale the convolutions of a StyleGAN, which begins with a constant; elsewhere the style itself,
        as the first maps are made of it, too, and no scale of a channel moves an object.
        """
        if self.style is None:
            return []
        if not hasattr(network, "mapping"):
            return [self.style]
        return [each for key, each in network.named_modules() if key.endswith(".style")]

    @torch.enable_grad()
    def _looked_at(self, name: str) -> tuple[int, list[int], Size]:
        """Values of a style, 0 without one, channels of each modulation, and the size of pictures."""
        latent = torch.zeros(1, self.objective.latent_channels, device=self.device, requires_grad=True)
        with record_outputs([self.style] if self.style else []) as styles, record_outputs(self.modulations) as made:
            image = self(Point(latent, self.read([""]), latent.new_zeros(1, 0)))
        if not image.requires_grad or not torch.autograd.grad(image.sum(), latent)[0].any():
            raise UserError(
                f"a run of {name} draws in steps that no gradient leads back through, as of codes: a picture is not "
                "found in it; give one of cvae, stylevae, stylegan2, cgan, ..."
            )
        return styles[0].shape[1] if styles else 0, [each.shape[1] for each in made], Size.of(image.shape[2:])

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> Condition:
        """Features of N captions."""
        condition = self.text([*captions]).to(self.device).float()
        return self.reader.text(condition) if self.reader is not None else condition

    def __call__(self, point: Point) -> Tensor:
        """(N, 3, H, W) in [-1, 1]."""
        with self._as_read(point):
            return self.objective.sample(point.latent, point.condition)

    @torch.no_grad()
    def channels(self, point: Point) -> Tensor:
        """(N, M) that the modulations make of points, one behind the other."""
        with record_outputs(self.modulations) as made:
            self(point)
        return torch.cat(made, 1)

    @contextmanager
    def _as_read(self, point: Point) -> Iterator[None]:
        """Within it conditions are features already, and styles and channels are moved."""
        text = self.reader.text if self.reader is not None else None
        moves = [(self.style, point.shift)] if self.style and point.shift.numel() else []
        if point.channels is not None:
            moves += zip(self.modulations, point.channels.split(self.sizes, 1), strict=True)
        hooks = [each.register_forward_hook(lambda *call, by=by: call[2] + by) for each, by in moves]
        try:
            if text is not None:
                self.reader.text = nn.Identity()
            yield
        finally:
            if text is not None:
                self.reader.text = text
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def encode(self, images: Tensor, captions: Sequence[str]) -> Tensor | None:
        """Latents (N, Z) of images (N, 3, H, W) in [-1, 1] by the encoder of an autoencoder; None without one."""
        if not hasattr(self.objective, "posterior"):
            return None
        mean, _ = self.objective.posterior(images, self.text([*captions]).to(self.device).float())
        return mean
