"""model.pt2: PyTorch's own exchange format. `torch.export.load(file).module()` runs it, on any device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from trainer.errors import UserError
from trainer.exports.program import Runtime, reason
from trainer.size import Resolution


def write(exported: ExportedProgram, path: Path) -> None:
    torch.export.save(exported, path)


class Generator(Runtime):
    """Draws with a model.pt2; UserError if it is no such file, or of a PyTorch that this one does not read."""

    def __init__(self, path: str, latent_channels: int, task: Any = None, resolution: Resolution = 0):
        super().__init__(latent_channels, task, resolution)
        try:
            self.exported = torch.export.load(path)
        except Exception as error:  # zip, JSON and schema errors of many kinds
            raise UserError(f"{path} is no program of torch.export that this PyTorch reads: {reason(error)}") from error
        self.device = torch.device("cpu")
        self.program = [self._on(self.device)]

    def _on(self, device: torch.device) -> torch.fx.GraphModule:
        return move_to_device_pass(self.exported, str(device)).module()

    def run(self, given: dict[str, Tensor]) -> Tensor:
        device = given["latent"].device
        if device != self.device:
            self.device, self.program = device, [self._on(device)]
        return self.program[0](*given.values())
