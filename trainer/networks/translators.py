"""Two networks that train as one player: from one domain to the other, and back."""

from __future__ import annotations

from typing import Any

from torch import nn


class Both(nn.Module):
    """there: to the domain of the images, or its discriminator; back: to that of the sources, or its discriminator."""

    there: Any
    back: Any

    def __init__(self, there: nn.Module, back: nn.Module):
        super().__init__()
        self.there, self.back = there, back

    @property
    def task(self) -> Any:
        """That of the network that draws."""
        return self.there.task

    @property
    def latent_channels(self) -> int:
        return self.there.latent_channels
