"""Progressive growing (Karras et al. 2018): the networks of a GAN grow with the images seen."""

from __future__ import annotations

from typing import Any

from trainer.errors import UserError
from trainer.networks.progressive import parts_of
from trainer.objectives.gan import GAN


class Progressive(GAN):
    """GAN of `trainer.networks.progressive`, whose level is a function of `images_seen` and of nothing else.

    So a run that goes on in the middle of a fade has the networks that it had, and there is nothing to save.
    start_size: pixels of the shorter side at the beginning. phase_kimg: thousand images for which a size stays, and as
    many in which the layers of the next are faded in. Layers that are not there yet have a gradient of 0, and stay.
    """

    def __init__(self, generator: Any, discriminator: Any, phase_kimg: float, start_size: int = 8, **gan: Any):
        super().__init__(generator, discriminator, **gan)
        sizes = [min(size) for size in getattr(generator, "sizes", [])]
        if not hasattr(generator, "level") or not hasattr(getattr(discriminator, "features", None), "level"):
            raise UserError(
                f"objective.generator={type(generator).__name__}, discriminator={type(discriminator).__name__}: "
                "expected both of progressive, which grow"
            )
        if start_size not in sizes or phase_kimg <= 0:
            raise UserError(
                f"objective.start_size={start_size}, phase_kimg={phase_kimg}: expected one of "
                f"{', '.join(map(str, sizes))} and a number above 0"
            )
        self.phase_kimg, self.start_level = phase_kimg, float(sizes.index(start_size))
        self.images_seen = 0

    def level(self, images: int) -> float:
        """Doublings from the smallest map that are there after so many images."""
        sizes, rest = divmod(images / 1000, 2 * self.phase_kimg)
        return min(self.start_level + sizes + max(0.0, rest / self.phase_kimg - 1), float(self.generator.most))

    @property
    def images_seen(self) -> int:
        return self._images_seen

    @images_seen.setter
    def images_seen(self, images: int) -> None:
        self._images_seen = images
        if hasattr(self, "phase_kimg"):
            self.generator.level = self.discriminator.features.level = self.level(images)

    @property
    def grown(self) -> dict[str, Any]:
        """Settings with which a training of these networks begins where they are, and does not grow them again."""
        return {"start_size": min(self.generator.sizes[parts_of(self.generator.level)[0]])}

    @property
    def drawn_with(self) -> dict[str, Any]:
        """What the configuration of the generator alone has to say of it."""
        return {"level": self.generator.level} if self.generator.level < self.generator.most else {}
