"""A study of made-up images, in which a sample is a function of its caption and seed."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.batch import Condition
from trainer.evaluation.protocol import Study
from trainer.sampling.conditioning import Conditioning


class Sampler:
    """An image is its caption's number, its seed and noise of both."""

    device, batch_size, conditioning, task = torch.device("cpu"), 4, Conditioning(), None

    def __init__(self):
        self.objective = SimpleNamespace(ema_weights=nullcontext)

    def reconstruct(self, images, captions):
        """What a model makes of images in [-1, 1] that brings each value nearer to 0 by a tenth."""
        return images.float().div(127.5).sub(1).mul(0.9).add(1).mul(127.5).round().to(torch.uint8)

    def __call__(self, captions, seeds, sources=None):
        pairs = zip(captions, seeds, strict=True)
        images = [np.random.default_rng([int(caption), seed]).integers(0, 256, (3, 16, 16)) for caption, seed in pairs]
        return torch.from_numpy(np.stack(images)).to(torch.uint8)

    def conditions(self, captions):
        numbers = torch.tensor([[float(caption)] for caption in captions])
        return Condition(numbers[:, None], torch.ones(len(captions), 1, dtype=torch.bool), numbers)


@pytest.fixture
def study():
    images = np.random.default_rng(0).integers(0, 200, (30, 16, 16, 3), dtype=np.uint8)
    held = SimpleNamespace(images=images, captions=[str(i // 2) for i in range(30)], attributes=[{}] * 30)
    return Study(Sampler(), held, "heldout", 40, 25, "data", "x.ckpt", 1.0, seed=3)
