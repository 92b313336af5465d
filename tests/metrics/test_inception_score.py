import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torchmetrics.image.inception import InceptionScore

from trainer.metrics.inception_score import _dealt, inception_score, score_sums


def logits(count, classes=11, seed=0):
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def score(x, splits=10):
    return inception_score(score_sums(x, torch.arange(len(x)), len(x), splits))


def test_equals_scipy_in_each_split():
    x = logits(103)
    p = scipy.special.softmax(x.double().numpy(), axis=1)
    expected = []
    for i in range(10):
        part = p[(_dealt(103, 10) == i).numpy()]
        expected.append(np.exp(np.mean([scipy.stats.entropy(row, part.mean(0)) for row in part])))
    assert score(x) == pytest.approx((np.mean(expected), np.std(expected)), rel=1e-9)


def test_equals_torchmetrics():
    metric = InceptionScore(torch.nn.Identity(), splits=1)
    metric.update(logits(200))
    assert score(logits(200), splits=1)[0] == pytest.approx(metric.compute()[0].item(), rel=1e-5)


def test_bounds():
    """As many as classes where each image is surely of one, evenly; 1 where nothing tells images apart."""
    sure = 1000 * torch.nn.functional.one_hot(torch.arange(70) % 7).float()
    assert score(sure, 1) == pytest.approx((7, 0), abs=1e-9)
    assert score(logits(1).expand(50, -1)) == pytest.approx((1, 0), abs=1e-9)


def test_sums_of_shares_in_any_order():
    x, order = logits(95), torch.randperm(95, generator=torch.Generator().manual_seed(0))
    shares = order.split([60, 0, 5, 30])
    added = sum(score_sums(x[numbers], numbers, 95) for numbers in shares)
    torch.testing.assert_close(added, score_sums(x, torch.arange(95), 95), rtol=1e-12, atol=1e-12)
    assert added[:, 0].tolist() == [10] * 5 + [9] * 5


def test_splits_do_not_follow_the_order_of_the_images():
    """Samples come sorted by caption: a tenth of them may all show one thing."""
    for classes in (torch.arange(1000) // 100, torch.arange(1000) % 10):
        mean, _ = score(1000 * torch.nn.functional.one_hot(classes).float())
        assert 9.4 < mean < 10


def test_a_split_without_images():
    with pytest.raises(ValueError, match="9 images in 10 splits"):
        score(logits(9))
