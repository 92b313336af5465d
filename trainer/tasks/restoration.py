"""Old pictures: several faults at once, none of them known."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.tasks.base import Task, between, grain, per_image, require
from trainer.tasks.degradations import blurred, jpeg
from trainer.tasks.enhancement import Enhancement


class Restoration(Task):
    """Faded as of `Enhancement`, blurred, noisy, saved as JPEG: in this order, each with a probability.

    blur: largest sigma in pixels. noise: largest deviation in grey levels. quality: the least of a JPEG. fading: the
    strength of contrast, gamma, cast and haze, as shares of those of `Enhancement`.
    """

    def __init__(
        self,
        probability: float = 0.5,
        fading: float = 1.0,
        blur: float = 1.5,
        noise: float = 30.0,
        quality: int = 20,
        source_dropout: float = 0.0,
    ):
        super().__init__(source_dropout)
        require(0 <= probability <= 1, f"task.probability={probability}: expected it in [0, 1]")
        require(0 <= fading <= 1, f"task.fading={fading}: expected a share in [0, 1]")
        require(0 <= blur <= 3, f"task.blur={blur}: expected a sigma from 0 to 3 pixels")
        require(noise >= 0, f"task.noise={noise}: expected a deviation of at least 0 grey levels")
        require(1 <= quality <= 100, f"task.quality={quality}: expected that of a JPEG, 1 to 100")
        self.probability, self.blur, self.noise, self.quality = probability, blur, noise, quality
        self.fade = Enhancement(*(fading * strength for strength in (0.6, 0.6, 0.25, 0.5)))

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        fades, blurs, grains, saves, sigma, deviation, quality = self.draws("restoration", seed, position, 7)

        def chosen(draw: Tensor, changed: Tensor, image: Tensor) -> Tensor:
            return torch.where(per_image(draw) < self.probability, changed, image)

        image = chosen(fades, self.fade(image, seed, position), image)
        image = chosen(blurs, blurred(image, self.blur * sigma), image)
        image = chosen(grains, grain(image, self.noise / 127.5 * deviation, seed, position), image)
        return chosen(saves, jpeg(image, between(self.quality, 95, quality).round()), image)
