"""Noise taken away."""

from __future__ import annotations

from torch import Tensor

from trainer.tasks.base import Task, between, grain, require


class Denoising(Task):
    """Gaussian noise of a deviation that the network is not told (blind denoising, Zhang et al. 2017).

    noise: least and largest deviation in grey levels.
    """

    def __init__(self, noise: tuple[float, float] = (5.0, 50.0), source_dropout: float = 0.0):
        super().__init__(source_dropout)
        low, high = noise
        require(0 <= low <= high, f"task.noise={[low, high]}: expected two deviations in grey levels, in order")
        self.noise = low, high

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        (draw,) = self.draws("denoising", seed, position, 1)
        return grain(image, between(*self.noise, draw) / 127.5, seed, position)
