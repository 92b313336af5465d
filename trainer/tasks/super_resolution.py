"""Small pictures made large."""

from __future__ import annotations

from torch import Tensor

from trainer.tasks.base import Task, between, enlarged, grain, require
from trainer.tasks.degradations import blurred, jpeg, smaller


class SuperResolution(Task):
    """A blurred, smaller, noisy JPEG of an image (the order of Real-ESRGAN, Wang et al. 2021), enlarged by the network.

    scale: 2 or 4. blur: largest sigma of a Gaussian, in pixels of the large image. noise: largest deviation, in grey
    levels. quality: the least of a JPEG, 100 for none at all. Each sample has its own, from none to these.
    """

    def __init__(
        self,
        scale: int = 2,
        blur: float = 0.8,
        noise: float = 4.0,
        quality: int = 70,
        source_dropout: float = 0.0,
    ):
        super().__init__(source_dropout)
        require(scale in (2, 4), f"task.scale={scale}: expected 2 or 4")
        require(0 <= blur <= 3, f"task.blur={blur}: expected a sigma from 0 to 3 pixels")
        require(noise >= 0, f"task.noise={noise}: expected a deviation of at least 0 grey levels")
        require(1 <= quality <= 100, f"task.quality={quality}: expected that of a JPEG, 1 to 100")
        self.scale, self.blur, self.noise, self.quality = scale, blur, noise, quality

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        sigma, kind, deviation, quality = self.draws("super resolution", seed, position, 4)
        if self.blur:
            image = blurred(image, self.blur * sigma)
        small = smaller(image, self.scale, (3 * kind).floor()).clamp(-1, 1)
        if self.noise:
            small = grain(small, self.noise / 127.5 * deviation, seed, position)
        return small if self.quality == 100 else jpeg(small, between(self.quality, 100, quality).round())

    def start(self, source: Tensor) -> Tensor:
        return enlarged(source[:, :3], self.scale)
