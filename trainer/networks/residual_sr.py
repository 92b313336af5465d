"""A generator of large images from small ones that works at the small size (EDSR, Lim et al. 2017), with a caption."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.networks.enlarging import Enlarge
from trainer.networks.layers import ModulatedNorm, Style, WordAttention, of_source
from trainer.networks.residual import Block
from trainer.networks.unet import bounded
from trainer.size import Resolution

if TYPE_CHECKING:
    from trainer.tasks.base import Task


class Generator(nn.Module):
    """Latent and Condition with a source (N, C, h, w) to images (N, 3, scale h, scale w) in [-1, 1].

    Residual blocks at the size of the source, words read half way, then doublings; what comes out is added to the
    task's bicubic `start`. task, text, resolution: as in `unet.Generator`.
    """

    any_size = True

    def __init__(
        self,
        task: Task,
        resolution: Resolution,
        latent_channels: int,
        text_channels: int,
        text: nn.Module,
        channels: int = 64,
        depth: int = 6,
        style_channels: int = 128,
    ):
        super().__init__()
        self.task, self.resolution, self.latent_channels = task, resolution, latent_channels
        self.text = text
        self.style = Style(latent_channels, text_channels, style_channels)
        self.source = of_source(task.source_channels, channels)
        self.blocks = nn.ModuleList(Block(channels, style_channels) for _ in range(depth))
        self.attention = WordAttention(channels, text_channels)
        doublings = int(math.log2(task.scale))
        self.ups = nn.ModuleList(Enlarge(channels >> i, channels >> (i + 1)) for i in range(doublings))
        self.norm = ModulatedNorm(channels >> doublings, style_channels)
        self.image = nn.Conv2d(channels >> doublings, 3, kernel_size=3, padding=1)
        nn.init.zeros_(self.image.weight)  # it begins as the task's start

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        source: Any = condition.source
        condition = self.text(condition)
        style = self.style(latent, condition)
        first = x = self.source(source)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, style)
            if number == len(self.blocks) // 2:
                x = self.attention(x, condition)
        x = x + first
        for up in self.ups:
            x = up(x)
        image = bounded(self.task.start(source) + self.image(F.silu(self.norm(x, style))))
        return bounded(self.task.keep(image, source))
