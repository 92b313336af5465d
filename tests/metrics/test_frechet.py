import numpy as np
import pytest
import scipy.linalg
import torch

from trainer.backbones.effnet_lite0 import load
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments, square_root


def features(count, width, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift


def distance(a, b):
    return frechet_distance(*mean_and_covariance(moments(a)), *mean_and_covariance(moments(b)))


def test_moments_are_those_of_the_samples():
    x = features(200, 7, shift=3)
    mean, covariance = mean_and_covariance(moments(x))
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(covariance, torch.cov(x.T))


def test_shards_in_any_order_add_up_to_the_whole():
    x = features(103, 7)
    shards = [moments(x[rank::4]) for rank in (2, 0, 3, 1)]
    torch.testing.assert_close(sum(shards), moments(x), rtol=1e-13, atol=1e-12)
    assert sum(shards)[0, 0] == 103


def test_gaussians_with_commuting_covariances():
    mean1, mean2 = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([0.0, 2.0, 4.0]).double()
    var1, var2 = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 0.0, 1.0]).double()
    expected = 17 + (1 - 2) ** 2 + 2**2 + (3 - 1) ** 2
    rotation = torch.linalg.qr(features(3, 3)).Q
    covariances = [rotation @ var.diag() @ rotation.T for var in (var1, var2)]
    rotated = [rotation @ mean1, covariances[0], rotation @ mean2, covariances[1]]
    assert frechet_distance(mean1, var1.diag(), mean2, var2.diag()) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(*rotated) == pytest.approx(expected, rel=1e-9)


def test_equals_the_general_matrix_root():
    a, b = features(400, 32, seed=1), features(300, 32, seed=2, shift=0.3)
    (mean1, cov1), (mean2, cov2) = (mean_and_covariance(moments(x)) for x in (a, b))
    root = scipy.linalg.sqrtm(cov1.numpy() @ cov2.numpy())
    expected = (mean1 - mean2).square().sum().item() + (cov1 + cov2).trace().item() - 2 * root.trace().real
    assert distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_few_samples_in_many_dimensions():
    """With A, B the centred samples over sqrt(n - 1), the trace of the root is the nuclear norm of A B^T."""
    a, b = features(20, 64, seed=1), features(30, 64, seed=2)
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    trace = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + sum(x.square().sum() for x in centred) - 2 * trace
    assert distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("count", [20, 500])
def test_no_distance_to_itself(count):
    x = features(count, 64, shift=2)
    scale = mean_and_covariance(moments(x))[1].trace().item()
    assert 0 <= distance(x, x) < 1e-5 * scale
    assert 0 <= distance(x, x.flip(0)) < 1e-5 * scale


def test_a_root_given_is_a_root_saved():
    (mean1, cov1), (mean2, cov2) = (mean_and_covariance(moments(features(90, 8, seed))) for seed in (1, 2))
    root = square_root(cov1)
    torch.testing.assert_close(root @ root, cov1)
    given = frechet_distance(mean1, cov1, mean2, cov2, root1=root)
    assert given == frechet_distance(mean1, cov1, mean2, cov2)


def test_few_images_twice():
    """On the covariance of these, LAPACK's divide and conquer (torch.linalg.eigh) may find no eigenvectors."""
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    twice = 2 * moments(load(32).features(torch.from_numpy(images).permute(0, 3, 1, 2)))
    mean, covariance = mean_and_covariance(twice)
    root = square_root(covariance)
    torch.testing.assert_close(root @ root, covariance, atol=1e-10, rtol=0)
    assert frechet_distance(mean, covariance, mean, covariance, root) < 1e-5 * covariance.trace().item()


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        mean_and_covariance(moments(features(1, 4)))
