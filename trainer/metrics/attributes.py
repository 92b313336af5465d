"""What a picture shows, read by a classifier that was trained on real pictures of known content."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.size import Resolution, Size


class Probe(nn.Module):
    """Reads several attributes from one picture: images (N, 3, H, W) uint8 -> one tensor of logits (N, K) an attribute.

    num_values: how many values K each attribute has. resolution: of the pictures, from 16.
    """

    def __init__(self, resolution: Resolution, num_values: list[int]):
        super().__init__()
        self.num_values = num_values
        size = Size.of(resolution)
        halvings = min(size).bit_length() - 3  # down to 4 to 7 pixels
        widths = [3, *(min(32 << i, 128) for i in range(halvings + 1))]
        layers: list[nn.Module] = []
        for number, (a, b) in enumerate(pairwise(widths)):
            kernel = (3, 1, 1) if number == 0 else (4, 2, 1)
            layers += [nn.Conv2d(a, b, *kernel), nn.BatchNorm2d(b), nn.ReLU()]
        whole = widths[-1] * math.prod(size.over(1 << halvings))
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(whole, 256), nn.ReLU())
        self.heads = nn.Linear(256, sum(num_values))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        if self.training:  # generated pictures are not quite clean, so the probe must not rely on it
            x = x + 0.1 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
        return list(self.heads(self.features(x)).split(self.num_values, 1))


def fit(
    probe: Probe, images: Tensor, labels: Tensor, epochs: int = 5, report: Callable[[int], None] | None = None
) -> Probe:
    """Trains on images (N, 3, H, W) uint8 and labels (N, A) int64, one column an attribute; the probe in eval mode.

    AdamW with one cycle of the learning rate, batches of 128, a generator of its own: the global state is not touched.
    report: called with the number of images behind it, of epochs * N.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe.apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)  # type: ignore[operator]
        probe.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(probe.parameters(), lr=4e-3, weight_decay=1e-2)
        num_batches = len(images) // 128
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * num_batches)
        for epoch in range(epochs):
            done = epoch * len(images)
            for rows in torch.randperm(len(images))[: num_batches * 128].split(128):
                logits = probe(images[rows])
                loss = sum(F.cross_entropy(logit, labels[rows, i]) for i, logit in enumerate(logits))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[union-attr]
                optimizer.step()
                schedule.step()
                done += len(rows)
                if report:
                    report(done)
    return probe.eval()


@torch.no_grad()
def read(probe: Probe, images: Tensor) -> Tensor:
    """(N, A) int64: the number of the value that the probe reads, for each attribute."""
    parts = (probe(part) for part in images.split(256))
    return torch.cat([torch.stack([logit.argmax(1) for logit in logits], 1) for logits in parts])
