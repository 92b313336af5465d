"""The generator of pix2pixHD (Wang et al. 2018): a network at half the size, and an enhancer around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import unet
from trainer.networks.layers import ModulatedNorm, of_source
from trainer.networks.residual import Block, DownBlock, UpBlock
from trainer.networks.unet import bounded
from trainer.size import Resolution, Size

if TYPE_CHECKING:
    from trainer.tasks.base import Task


class Generator(unet.Generator):
    """As `unet.Generator`, which works at half the resolution here, on the source made smaller by its mean.

    The enhancer comes down from the whole source to that size, adds the maps of the inner network to its own, and goes
    up through `num_blocks` blocks: it need but learn detail. fine_channels: its channels at full size. Sources of tasks
    that enlarge are refused. unet, options: all else of that.
    """

    def __init__(
        self,
        task: Task,
        resolution: Resolution,
        *unet: Any,
        fine_channels: int = 16,
        num_blocks: int = 2,
        **options: Any,
    ):
        if task.scale != 1:
            raise UserError(f"generator.task={task}: this generator does not enlarge; take residual_sr or unet")
        super().__init__(task, Size.of(resolution).over(2), *unet, **options)
        self.resolution = resolution
        channels, style_channels = self.source.out_channels, self.start.in_features
        self.fine = of_source(task.source_channels, fine_channels)
        self.down = DownBlock(fine_channels, channels)
        self.blocks = nn.ModuleList(Block(channels, style_channels) for _ in range(num_blocks))
        self.up = UpBlock(channels, fine_channels, style_channels)
        self.norm = ModulatedNorm(fine_channels, style_channels)
        self.image = nn.Conv2d(fine_channels, 3, kernel_size=3, padding=1)
        nn.init.zeros_(self.image.weight)  # it begins as the task's start

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        source: Any = condition.source
        condition = self.text(condition)
        style = self.style(latent, condition)
        coarse = self.maps(self.source(F.avg_pool2d(source, 2)), style, condition)
        fine = self.fine(source)
        x = (self.down(fine) + coarse) * 0.5**0.5
        for block in self.blocks:
            x = block(x, style)
        x = (self.up(x, style) + fine) * 0.5**0.5
        image = bounded(self.task.start(source) + self.image(F.silu(self.norm(x, style))))
        return bounded(self.task.keep(image, source))
