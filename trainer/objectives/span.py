"""How long a device works on something, without waiting for it."""

from __future__ import annotations

import time
from typing import Any

import torch


class Span:
    """From where it is made to `stop`, in the work of a GPU's stream or on the clock of the CPU.

    float(span): seconds; of a GPU, waits until it has done that work.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.start = self._now()

    def stop(self) -> None:
        self.end = self._now()

    def __float__(self) -> float:
        if not self.on_gpu:
            return float(self.end - self.start)
        self.end.synchronize()
        return float(self.start.elapsed_time(self.end)) / 1000

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
