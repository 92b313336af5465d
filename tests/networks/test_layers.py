"""Layers that architectures share, in the precision of a GPU; without values, as there need be none."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.batch import Condition
from trainer.networks import layers
from trainer.networks.layers import normed
from trainer.networks.vit import styled


@pytest.mark.parametrize("function", [normed, lambda x: styled(x, x, x)], ids=["normed", "styled"])
def test_norms_stay_in_16_bits_on_a_gpu(function):
    """There autocast makes float32 of a layer norm, and of all that follows up to the next product; not so on a CPU."""
    with FakeTensorMode(), torch.no_grad():
        maps = torch.empty(2, 8, 8, 16, device="cuda", dtype=torch.bfloat16)
        try:
            torch.set_autocast_enabled("cuda", True)  # `torch.autocast` would not without a GPU
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            assert F.layer_norm(maps, maps.shape[-1:]).dtype == torch.float32
            assert function(maps).dtype == torch.bfloat16
        finally:
            torch.set_autocast_enabled("cuda", False)


def test_layers_over_pixels_use_that_norm(monkeypatch):
    seen = []
    monkeypatch.setattr(layers, "normed", lambda x: seen.append(x.shape) or normed(x))
    maps, style = torch.randn(2, 16, 3, 3), torch.randn(2, 4)
    layers.ModulatedNorm(16, 4)(maps, style)
    words = Condition(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 8))
    layers.WordAttention(16, 8)(maps, words)
    assert seen == [(2, 3, 3, 16), (2, 9, 16)]
