import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from trainer.metrics.kernel import kernel_distance


class Identity(torch.nn.Identity):
    num_features = 24


def features(count, seed, shift=0.0):
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed)) + shift


def by_the_formula(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    x, y = x.double().numpy(), y.double().numpy()
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_equals_the_formula():
    x, y = features(40, 0), features(40, 1, 0.3)
    mean, std = kernel_distance(x, y, subsets=2)
    assert mean == pytest.approx(by_the_formula(x, y), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-12)  # both subsets are the whole sets


def test_equals_torchmetrics_on_whole_sets():
    x, y = features(200, 0), features(200, 1, 0.3)
    metric = KernelInceptionDistance(Identity(), subsets=1, subset_size=200)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert kernel_distance(x, y, subsets=1)[0] == pytest.approx(metric.compute()[0].item(), rel=1e-4)


def test_mean_and_deviation_over_subsets():
    """Against other draws of other subsets, and the formula in matrix form."""
    x, y = features(500, 0), features(400, 1, 0.3)
    mean, std = kernel_distance(x, y, subsets=300, subset_size=50)
    assert abs(mean - kernel_distance(x[:400], y, subsets=1)[0]) < 4 * std / 300**0.5 + 0.02
    rng = np.random.default_rng(0)
    drawn = [
        by_matrix(x[rng.permutation(500)[:50]].double(), y[rng.permutation(400)[:50]].double()) for _ in range(300)
    ]
    assert std == pytest.approx(np.std(drawn), rel=0.2)
    assert mean == pytest.approx(np.mean(drawn), abs=4 * std / 150**0.5)


def test_deviation_of_two_is_half_their_difference():
    x, y = features(100, 0), features(100, 1)
    first, (mean, std) = kernel_distance(x, y, 1, 20)[0], kernel_distance(x, y, 2, 20)
    assert std == pytest.approx(abs(first - mean), rel=1e-9)
    assert std > 0


def by_matrix(x, y):
    n = len(x)
    k = (torch.cat([x, y]) @ torch.cat([x, y]).T / 24 + 1) ** 3
    sign = torch.cat([torch.full((n,), 1.0), torch.full((n,), -1.0)]).double()
    same = (torch.outer(sign, sign) > 0) & ~torch.eye(2 * n, dtype=torch.bool)
    return (k[same].sum() / (n * (n - 1)) - 2 * k[:n, n:].mean()).item()


def test_unbiased_between_sets_of_one_distribution():
    values = [kernel_distance(features(30, 2 * i), features(30, 2 * i + 1), subsets=1)[0] for i in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0 < max(values)


def test_the_seed_decides_and_the_global_state_stays():
    x, y = features(100, 0), features(100, 1)
    state = torch.get_rng_state()
    first = kernel_distance(x, y, 5, 20, seed=3)
    torch.rand(1)
    assert kernel_distance(x, y, 5, 20, seed=3) == first
    assert kernel_distance(x, y, 5, 20, seed=4) != first
    torch.set_rng_state(state)
    kernel_distance(x, y, 5, 20)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_feature_has_no_pair():
    with pytest.raises(ValueError, match="1 and 5 features"):
        kernel_distance(features(1, 0), features(5, 1))
