"""The style that a picture was drawn in, told by the pictures of training that are nearest."""

from types import SimpleNamespace

import numpy as np
import torch

from trainer.evaluation import styles
from trainer.evaluation.protocol import Study, run
from trainer.sampling.conditioning import Conditioning

COLOURS = {"flat": (220, 30, 30), "outlined": (30, 30, 220)}


def split(count, seed):
    """Noisy pictures, red or blue by their style."""
    asked = [("flat", "outlined")[i % 2] for i in range(count)]
    noise = np.random.default_rng(seed).integers(-25, 26, (count, 4, 4, 3))
    images = (np.array([COLOURS[style] for style in asked])[:, None, None] + noise).astype(np.uint8)
    return SimpleNamespace(images=images, captions=asked, attributes=[{"target": style} for style in asked])


class Sampler:
    """Draws what is asked for, but every fourth picture in the other style."""

    task, device, conditioning = None, torch.device("cpu"), Conditioning()

    def __call__(self, captions, seeds, sources=None):
        other = {"flat": "outlined", "outlined": "flat"}
        asked = [other[style] if seed % 4 == 3 else style for style, seed in zip(captions, seeds, strict=True)]
        colours = torch.tensor([COLOURS[style] for style in asked], dtype=torch.uint8)
        return colours[:, :, None, None].expand(-1, 3, 4, 4)


class Mean:
    name, sha256 = "mean", "0" * 64

    def to(self, device):
        return self

    def features(self, images):
        return images.float().mean((2, 3))


def test_the_share_of_pictures_in_the_style_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(styles, "EACH", 6)
    study = Study(Sampler(), split(40, 1), "heldout", 40, 40, data="", checkpoint="", kimg=0)
    drawn, real = run(study, [styles.Styles(Mean(), split(20, 2))])
    assert (drawn.metric, real.metric) == ("styles_mean", "styles_mean_real")
    assert drawn.value == 0.75 and real.value == 1.0
    assert drawn.protocol["styles"] == ["flat", "outlined"]
