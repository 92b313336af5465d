"""Deep image prior (Ulyanov et al. 2018): an untrained network is fitted to one spoilt picture, and so mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.reconstruction import l2
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.hourglass import FixedInput


class DeepImagePrior(Objective):
    """Minimises |m (f(z + jitter n) - y)|^2 over f, y = x + sigma e where m is 1 and unknown elsewhere.

    x is training picture `number`; of the batches only the positions count, for n: a batch of one is an iteration, so
    kimg is in thousands of these. The structure of f fits pictures before it fits noise, so the budget is the
    regulariser: too long a training brings the noise back. `psnr` is of f(z + jitter n) against x, which training does
    not see; `psnr_given` that of y, with grey where it is unknown.
    sigma: of noise, in an image in [-1, 1]: 25 grey levels are 0.196. missing: share of pixels that are unknown.
    """

    averaged = ("generator",)
    draws_with = "generator"
    measured_by = "generator/psnr"
    generator: Any
    clean: Tensor
    given: Tensor
    known: Tensor

    def __init__(self, generator: FixedInput, number: int = 0, sigma: float = 0.196, missing: float = 0.0, **loop: Any):
        super().__init__(**loop)
        if number < 0 or sigma < 0 or not 0 <= missing < 1:
            raise UserError(
                f"objective.number={number}, sigma={sigma}, missing={missing}: expected a picture from 0 on, at least "
                "0, and a share from 0 to less than 1"
            )
        self.generator = generator
        self.number, self.sigma, self.missing = number, sigma, missing
        self.latent_channels = generator.latent_channels
        self.phases = {"generator": self.generator_loss}

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pictures = data.train.images
        if self.number >= len(pictures):
            raise UserError(f"objective.number={self.number}: there are {len(pictures)} pictures to train on")
        clean = torch.from_numpy(pictures[self.number].copy()).permute(2, 0, 1).float() / 127.5 - 1
        self.clean, self.given, self.known = (each.to(self.device) for each in self.spoilt(clean))

    def spoilt(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture (3, H, W), what is given of it, and where it is known (1, H, W)."""
        place = torch.tensor([self.number])
        normals = noise.normal(self.seed, "picture/noise", place, clean.numel()).view_as(clean)
        known = noise.uniform(self.seed, "picture/missing", place, clean[0].numel()) >= self.missing
        mask = known.view(1, *clean.shape[1:]).float()
        return clean, mask * (clean + self.sigma * normals), mask

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.generator(self.normal("generator", batch, self.latent_channels), batch.condition).float()
        loss = l2(self.known * found, self.given.expand_as(found)).mean() / self.known.mean()
        psnr, given = self.psnr(found), self.psnr(self.given)
        return loss, {"generator/loss": loss, "generator/psnr": psnr, "generator/psnr_given": given}

    def psnr(self, image: Tensor) -> Tensor:
        """10 log10(2^2 / mean squared error) of images in [-1, 1], in dB."""
        return -10 * (l2(image.clamp(-1, 1).detach().view(-1, *self.clean.shape), self.clean).mean() / 4).log10()
