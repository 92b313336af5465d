"""Adaptive augmentation: how often each part is applied, and how that follows the discriminator."""

import pytest
import torch

from trainer.errors import UserError
from trainer.networks.ada import Adaptive
from trainer.networks.diffaugment import DiffAugment

N = 2000


@pytest.fixture
def images():
    return torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def uniform():
    return torch.rand(N, Adaptive.num_draws, generator=torch.Generator().manual_seed(1))


def test_never_at_first_and_everything_at_one(images, uniform):
    augment = Adaptive(cutout=0.25)
    assert torch.equal(augment(images, uniform), images)
    augment.probability.fill_(1)
    torch.testing.assert_close(augment(images, uniform), DiffAugment(cutout=0.25)(images, uniform[:, :7]))


def test_each_part_has_the_probability_by_itself(images, uniform):
    augment = Adaptive(colour=0, translation=0.25, cutout=0.5)
    augment.probability.fill_(0.3)
    moved = uniform[:, 8] < 0.3
    cut = uniform[:, 9] < 0.3
    found = augment(images, uniform)
    untouched = (found == images).flatten(1).all(1)
    assert untouched[~moved & ~cut].all()
    assert not untouched[cut].any()
    for part in (moved, cut):
        assert part.float().mean() == pytest.approx(0.3, abs=0.04)
    only = moved & ~cut
    expected = DiffAugment(0, 0.25, 0)(images, uniform[:, :7])
    assert torch.equal(found[only], expected[only])


def test_the_probability_follows_the_sureness_of_the_step_before():
    augment = Adaptive(target=0.5, kimg=0.1)  # 10 images are a tenth of the way
    found = []
    for logits in ([1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1], [1, 1, 1, 1]):
        for part in torch.tensor(logits, dtype=torch.float).chunk(2):  # micro-batches
            augment.see(part)
        augment.commit(10)
        found.append(augment.probability.item())
    assert found == pytest.approx([0, 0.1, 0.1, 0])  # r was 0.5 as it began, then 1, 0.5, -1
    assert augment.sureness == 1
    for _ in range(20):
        augment.see(torch.ones(2))
        augment.commit(10)
    assert augment.probability == 1, "and stays within its bounds"
    assert set(augment.state_dict()) == {"probability", "sureness"}


def test_mistakes():
    with pytest.raises(UserError, match=r"augment\.target=2, kimg=500\.0"):
        Adaptive(target=2)
