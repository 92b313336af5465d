"""Classical methods do what they are known to do, and figures of theirs stand beside a run's."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from trainer.evaluation import classical
from trainer.evaluation.similarity import Similarity
from trainer.tasks import (
    colorization,
    denoising,
    enhancement,
    inpainting,
    restoration,
    super_resolution,
)

ALL = (
    colorization.Colorization(),
    denoising.Denoising(),
    enhancement.Enhancement(),
    inpainting.Inpainting(),
    restoration.Restoration(),
    super_resolution.SuperResolution(),
)
SIDE = 32


def ramp():
    """A smooth picture (1, 3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(-0.8, 0.8, SIDE), torch.linspace(-0.8, 0.8, SIDE), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])[None]


@pytest.mark.parametrize("task", ALL, ids=lambda task: type(task).__name__)
def test_every_method_makes_a_picture(task):
    source = task(ramp(), 0, torch.tensor([3]))[0].permute(1, 2, 0).numpy()
    for method, _ in classical.METHODS[type(task)].values():
        made = method(source, task)
        assert made.shape == (SIDE, SIDE, 3)
        assert -1e-6 <= made.min() and made.max() <= 1 + 1e-6


def errors(task, image, position=0):
    """Mean squared error of what a source starts as, and of each method."""
    source = task(image, 0, torch.tensor([position]))
    wanted = ((image + 1) / 2)[0].permute(1, 2, 0).numpy()
    start = ((task.start(source) + 1) / 2)[0].permute(1, 2, 0).numpy()
    made = {name: method(source[0].permute(1, 2, 0).numpy(), task)
            for name, (method, _) in classical.METHODS[type(task)].items()}  # fmt: skip
    return {name: float(np.square(each - wanted).mean()) for name, each in {"start": start, **made}.items()}


def test_holes_of_a_ramp_are_filled_and_noise_of_it_is_less():
    filled = errors(inpainting.Inpainting(boxes=1.0), ramp())
    assert filled["biharmonic"] < 1e-4 < filled["start"]
    assert filled["telea"] < filled["start"] / 10
    cleaned = errors(denoising.Denoising((25.0, 25.0)), ramp())
    assert max(cleaned["tv"], cleaned["nl_means"]) < cleaned["start"] / 2
    pale = errors(enhancement.Enhancement(contrast=0.6, gamma=0, cast=0, haze=0), ramp(), position=5)
    assert pale["stretched"] < pale["start"]


def test_similarity_is_that_of_scikit_image():
    draw = torch.Generator().manual_seed(0)
    originals = torch.randint(0, 256, (6, 3, SIDE, SIDE), dtype=torch.uint8, generator=draw)
    images = (originals.int() + torch.randint(-9, 10, originals.shape, generator=draw)).clamp(0, 255).to(torch.uint8)
    images[0] = originals[0]  # infinite, and so 80

    class Study:
        device = torch.device("cpu")
        sampler = type("Drawn", (), {"task": ALL[0]})()

        def originals(self, numbers):
            return originals[numbers]

        def figure(self, metric, value, better, **protocol):
            return metric, value, better

    measure = Similarity()
    measure.prepare(Study())
    measure.update([0, 1, 2, 3], images[:4])
    measure.update([4, 5], images[4:])
    (psnr, value, better), (ssim, likeness, _) = measure.figures()
    pairs = [(a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()) for a, b in zip(originals, images, strict=True)]
    with np.errstate(divide="ignore"):
        expected = [min(80.0, peak_signal_noise_ratio(a, b)) for a, b in pairs]
    assert (psnr, better) == ("psnr", "higher") and math.isclose(value, np.mean(expected), rel_tol=1e-6)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = [structural_similarity(a, b, data_range=255, **window) for a, b in pairs]
    assert ssim == "ssim" and likeness == pytest.approx(np.mean(expected), abs=5e-3)  # it counts the borders, too
