import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from trainer.metrics import manifold
from trainer.metrics.manifold import density_coverage, precision_recall


def features(count, seed, width=6, spread=1.0):
    return spread * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_definition(real, fake, k):
    """precision, recall, density, coverage with whole matrices of scipy's distances."""
    real, fake = real.double().numpy(), fake.double().numpy()
    real_radius, fake_radius = (np.sort(cdist(x, x), axis=1)[:, k] for x in (real, fake))
    between = cdist(real, fake)
    precision = (between <= real_radius[:, None]).any(0).mean()
    recall = (between <= fake_radius[None]).any(1).mean()
    density = (between <= real_radius[:, None]).sum() / (k * len(fake))
    coverage = (between.min(1) <= real_radius).mean()
    return precision, recall, density, coverage


@pytest.mark.parametrize("block", [7, 64, 1024])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_definitions(monkeypatch, block, k):
    monkeypatch.setattr(manifold, "_BLOCK", block)
    real, fake = features(130, 0), features(90, 1, spread=0.8) + 0.3
    found = (*precision_recall(real, fake, k), *density_coverage(real, fake, k))
    assert found == pytest.approx(by_definition(real, fake, k), rel=1e-12)
    assert len({round(value, 3) for value in found}) == 4 and 0 < min(found)


def test_expectation_for_one_distribution():
    """Naeem et al. 2020, lemmas 1 and 2: density 1, coverage 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k))."""
    found = torch.tensor([density_coverage(features(400, i), features(300, 100 + i)) for i in range(20)])
    expected = 1 - math.prod((400 - i) / (700 - i) for i in range(1, 6))
    assert found[:, 0].mean() == pytest.approx(1, abs=0.03)
    assert found[:, 1].mean() == pytest.approx(expected, abs=0.01)


def test_fakes_that_are_few_of_the_reals():
    """Samples of a model that draws one mode: precise, but of little variety."""
    real = torch.cat([features(100, 0), features(100, 1) + 100])
    fake = features(100, 2)
    precision, recall = precision_recall(real, fake)
    density, coverage = density_coverage(real, fake)
    assert precision > 0.7 and density > 0.7 and recall < 0.5 and coverage <= 0.5
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real + 1000) == (0, 0)


def test_far_from_the_origin_nothing_changes():
    """Products of float32 at 4096 are exact to 1 only, distances here are of that size."""
    real, fake = ((8 * features(80, seed, 32)).round() / 8 for seed in (0, 1))  # exact in float32 at either place
    assert precision_recall(real + 4096, fake + 4096) == precision_recall(real, fake)
    assert density_coverage(real + 4096, fake + 4096) == density_coverage(real, fake)


@pytest.mark.parametrize("width", [5, 33, 320])
def test_copies_are_at_no_distance(width):
    """Each real six times: balls of no radius, and a fake is inside only if it is one of them.

    A product with a single row is rounded otherwise than one with many, which must not put the copy outside.
    """
    for seed in range(20):
        real = features(20, seed, width).repeat(6, 1) * 37.7
        assert density_coverage(real, real[:1], 5) == pytest.approx((6 / 5, 6 / 120))
        precision, _ = precision_recall(real, torch.cat([real[:5], real[:5] + 1e-3]), 3)
        assert precision == 0.5


def test_too_few_for_neighbours():
    with pytest.raises(ValueError, match="neighbour number 3 of 3 features: expected at least 4"):
        precision_recall(features(3, 0), features(9, 1))
