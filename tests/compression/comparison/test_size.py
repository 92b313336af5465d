"""Counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.compression.comparison.size import measure, multiply_adds, parameters


def test_a_dcgan_by_hand(generator, drawn_from):
    found = measure(generator, drawn_from(3), generator.state_dict())
    style, start = 24, 16 * 16
    text = 8 * 32 + 6 * 32 + (6 * 32 + 32) + (8 * 32 + 6) * style + style  # queries, key, value, out
    mix = (4 + style) * style + style + style * style + style
    norms = 2 * (16 + 16 + 8) * (style + 1)
    ups = 16 * 16 * 16 + 16 + 16 * 8 * 16 + 8
    image = 8 * 3 * 9 + 3
    assert found.parameters == text + mix + (style + 1) * start + norms + ups + image
    assert found.bytes == 4 * found.parameters
    halves = {key: value.half() for key, value in generator.state_dict().items()}
    assert measure(generator, drawn_from(1), halves).bytes == 2 * found.parameters

    words = 5 * (6 * 32 + 32 * 8 + 8 * 32 + 6 * 32) + (8 * 32 + 6) * style  # key, score, read, value of 5 words; out
    maps = 16 * 4 * 4 * 16 * 16 + 16 * 8 * 8 * 8 * 16 + 8 * 16 * 16 * 3 * 9  # a transposed one acts at each input
    matrices = (4 + style) * style + style * style + style * start + 2 * (16 + 16 + 8) * style
    assert found.multiply_adds == words + matrices + maps


def test_stored_values_alone_are_parameters():
    state = {
        "weight": torch.zeros(4, 3, dtype=torch.int8),
        "scale": torch.ones(4),
        "half": torch.ones(5, dtype=torch.float16),
        "where": torch.ones(9, dtype=torch.uint8),
        "zero": torch.zeros(4, dtype=torch.int64),
    }
    assert parameters(state) == 12 + 4 + 5


class Int8(nn.Module):
    """A convolution and a linear layer by oneDNN's kernels."""

    def __init__(self):
        super().__init__()
        weight = torch.randint(-9, 9, (6, 4, 3, 3), dtype=torch.int8)
        self.scales, self.zeros = torch.full((6,), 0.1), torch.zeros(6, dtype=torch.int64)
        self.packed = torch.ops.onednn.qconv_prepack(weight, self.scales, 0.1, 128, [1, 1], [1, 1], [1, 1], 1, None)
        self.matrix = torch.ops.onednn.qlinear_prepack(torch.randint(-9, 9, (6, 10), dtype=torch.int8), None)

    def forward(self, latent, condition):
        x = torch.full((len(latent), 4, 8, 8), 130, dtype=torch.uint8).to(memory_format=torch.channels_last)
        torch.ops.onednn.qconv2d_pointwise(
            *(x, 0.1, 128, self.packed, self.scales, self.zeros, None),
            *([2, 2], [1, 1], [1, 1], 1, 1.0, 0, torch.float32, "none", [], ""),
        )
        rows = torch.full((len(latent), 10), 130, dtype=torch.uint8)
        torch.ops.onednn.qlinear_pointwise(
            *(rows, 0.1, 128, self.matrix, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="built without oneDNN")
@pytest.mark.parametrize("size", [1, 3])
def test_int8_kernels_count(drawn_from, size):
    assert multiply_adds(Int8(), drawn_from(size)) == 4 * 4 * 6 * 4 * 9 + 10 * 6
