import pytest
import torch
from scipy.spatial.distance import pdist

from trainer.metrics.diversity import pairwise_distance


def test_equals_scipy():
    x = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    assert pairwise_distance(x).item() == pytest.approx(pdist(x.double().numpy()).mean(), rel=1e-12)


def test_closed_forms():
    corners = torch.tensor([[0.0, 0], [3, 0], [3, 4], [0, 4]])
    assert pairwise_distance(corners).item() == pytest.approx((3 + 3 + 4 + 4 + 5 + 5) / 6)
    assert pairwise_distance(torch.ones(4, 8)).item() == 0


def test_near_twins_far_from_the_origin():
    x = torch.full((2, 64), 4096.0)
    x[1, 0] += 2**-10
    assert pairwise_distance(x).item() == 2**-10


def test_one_sample_makes_no_pair():
    with pytest.raises(ValueError, match="2 samples of a caption, got 1"):
        pairwise_distance(torch.ones(1, 3))
