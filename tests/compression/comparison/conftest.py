"""A small generator with what it draws from, and stages of known values."""

from __future__ import annotations

import pytest
import torch

from trainer.batch import Condition
from trainer.compression.comparison.fresh_process import Fresh
from trainer.compression.comparison.latency import Speed
from trainer.compression.comparison.size import Size
from trainer.compression.comparison.variant import Stage


@pytest.fixture
def generator():
    from trainer.networks.dcgan import Generator

    torch.manual_seed(0)
    sizes = {"base_channels": 8, "max_channels": 16, "style_channels": 24}
    return Generator(16, latent_channels=4, text_channels=6, text=torch.nn.Identity(), **sizes).eval()


@pytest.fixture
def drawn_from():
    """Batch size -> (latent, condition)."""

    def batch(size):
        return torch.randn(size, 4), Condition(
            torch.randn(size, 5, 6), torch.ones(size, 5, dtype=torch.bool), torch.randn(size, 6)
        )

    return batch


@pytest.fixture
def stages():
    teacher = Stage(
        "teacher",
        speed=Speed({"p50": 8.0, "p95": 9.0, "p99": 12.0}, [8.0, 8.0, 8.0], {1: [100.0] * 3, 4: [200.0, 220.0, 210.0]}),
        size=Size(5_000_000, 20 * 2**20, 250_000_000),
        figures={"fd_effnet": 10.0, "attributes_scene": 0.98, "r_precision_matching": 0.9},
    )
    fold = Stage(
        "fold",
        note="norms and modulation <joined>",
        speed=Speed({"p50": 4.0, "p95": 5.0, "p99": 6.0}, [4.0, 4.0, 4.0], {1: [200.0] * 3, 4: [400.0, 440.0, 420.0]}),
        size=Size(5_000_000, 20 * 2**20, 125_000_000),
        figures={"fd_effnet": 10.0, "attributes_scene": 0.98, "psnr_teacher": 80.0, "ssim_teacher": 1.0},
    )
    int8 = Stage(
        "int8",
        speed=Speed({"p50": 2.0, "p95": 3.0, "p99": 4.0}, [2.0, 2.0, 2.0], {1: [400.0] * 3, 16: [1600, 2200, 1680]}),
        size=Size(5_000_000, 5 * 2**20, 125_000_000),
        figures={
            **{"fd_effnet": 10.3, "attributes_scene": 0.975, "r_precision_matching": 0.905},
            **{"psnr_teacher": 34.56, "ssim_teacher": 0.987},
        },
        fresh=Fresh(2.5, 0.4, 3.5, 700 * 2**20, 16),
    )
    return [teacher, fold, int8]
