import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

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
    torch.testing.assert_close(root @ root.T, cov1)
    given = frechet_distance(mean1, cov1, mean2, cov2, root1=root)
    assert given == frechet_distance(mean1, cov1, mean2, cov2)


def test_few_images_twice():
    """On covariances like this LAPACK's divide and conquer (torch.linalg.eigh) may find no eigenvectors."""
    mean, covariance = mean_and_covariance(2 * moments(features(7, 320)))
    root = square_root(covariance)
    assert root.shape == (320, 6)
    torch.testing.assert_close(root @ root.T, covariance)
    assert frechet_distance(mean, covariance, mean, covariance, root) < 1e-5 * covariance.trace().item()


@pytest.mark.parametrize("width", [1, 5, 511, 512, 1300])
def test_blocks_of_the_products_make_the_whole(width):
    x = features(2, width, shift=1).repeat(600, 1) + torch.arange(1200)[:, None]  # more rows than a block has
    ones = torch.cat([torch.ones(1200, 1, dtype=x.dtype), x], 1)
    torch.testing.assert_close(moments(x).triu(), (ones.T @ ones).triu())
    full, upper = (mean_and_covariance(m)[1] for m in (ones.T @ ones, moments(x).triu()))
    torch.testing.assert_close(upper, full, atol=1e-6, rtol=1e-9)
    assert torch.equal(upper, upper.T)


@pytest.mark.parametrize(("count", "rank"), [(20, 19), (40, 39), (64, 63), (65, 64), (200, 64)])
def test_a_root_has_the_rank_of_the_samples(count, rank):
    """One singular set against a regular one, both ways: the factor of either gives the same distance."""
    a, b = features(count, 64, seed=3), features(300, 64, seed=4)
    root = square_root(mean_and_covariance(moments(a))[1])
    assert root.shape[1] in (rank, 64)
    torch.testing.assert_close(root @ root.T, mean_and_covariance(moments(a))[1])
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-6)


def test_features_that_never_vary():
    a, b = torch.ones(5, 3), torch.full((6, 3), 3.0)
    assert distance(a, b) == pytest.approx(12, abs=1e-9)
    dead = features(50, 8)
    dead[:, 3] = 0.1
    assert distance(dead, dead + 1) == pytest.approx(8, rel=1e-6)


def test_equals_torchmetrics():
    class Identity(torch.nn.Identity):
        num_features = 48

    a, b = features(300, 48, seed=5), features(200, 48, seed=6, shift=0.5)
    metric = FrechetInceptionDistance(Identity())
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert distance(a, b) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_no_distance_from_what_is_no_number():
    x = features(20, 4)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        distance(x, features(20, 4))


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        mean_and_covariance(moments(features(1, 4)))
