"""DiffAugment: pure in its draws, equal to the written transforms, differentiable twice."""

import pytest
import torch
from torch.nn.functional import pad

from trainer.errors import UserError
from trainer.networks.diffaugment import DiffAugment

N, H, W = 6, 16, 24


@pytest.fixture
def images():
    images = torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def uniform():
    return torch.rand(N, DiffAugment.num_draws, generator=torch.Generator().manual_seed(1))


def test_off_returns_the_very_images(images, uniform):
    assert DiffAugment(0, 0, 0)(images, uniform) is images


def test_a_sample_depends_on_its_image_and_row_alone(images, uniform):
    augment = DiffAugment()
    whole = augment(images, uniform)
    assert not torch.equal(whole, images)
    assert whole.shape == images.shape
    for i in range(N):
        assert torch.equal(augment(images[i : i + 1], uniform[i : i + 1])[0], whole[i])
    same = augment(images[:1].expand(N, -1, -1, -1), uniform[:1].expand(N, -1))
    assert torch.equal(same, same[:1].expand_as(same))


def test_colour_is_brightness_then_saturation_then_contrast(images, uniform):
    b, s, c = (uniform[:, k].view(-1, 1, 1, 1) for k in range(3))
    x = images + (b - 0.5)
    x = (x - x.mean(1, keepdim=True)) * (2 * s) + x.mean(1, keepdim=True)
    x = (x - x.mean((1, 2, 3), keepdim=True)) * (c + 0.5) + x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(DiffAugment(1, 0, 0)(images, uniform), x)


def test_translation_is_a_slice_of_the_padded_image(images, uniform):
    moved = DiffAugment(0, 0.125, 0)(images, uniform)
    down = (uniform[:, 3] * 5).floor().int() - 2  # an eighth of 16 and 24 are 2 and 3
    right = (uniform[:, 4] * 7).floor().int() - 3
    for i, (dy, dx) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        padded = pad(images[i], (3, 3, 2, 2))
        assert torch.equal(moved[i], padded[:, 2 - dy : 2 - dy + H, 3 - dx : 3 - dx + W])
    assert len({*down.tolist()}) > 1
    assert len({*right.tolist()}) > 1


def test_cutout_is_a_square_of_zeros_around_the_point(images, uniform):
    uniform[:, 5:] = 0.5
    cut = DiffAugment(0, 0, 0.5)(images, uniform)
    zero = cut == 0
    assert zero.any(1).sum((1, 2)).eq(7 * 11).all()  # |i - 8| < 4 and |j - 12| < 6
    assert zero[:, :, 5:12, 7:18].all()
    assert torch.equal(cut[~zero], images[~zero])


def test_gradient_flows_twice(images, uniform):
    images.requires_grad_()
    out = DiffAugment()(images, uniform)
    (gradient,) = torch.autograd.grad(out.pow(3).sum(), images, create_graph=True)
    assert gradient.flatten(1).abs().sum(1).gt(0).all()
    assert torch.autograd.grad(gradient.square().sum(), images)[0].flatten(1).abs().sum(1).gt(0).all()
    small = images.detach().double()[:2, :, :4, :6].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DiffAugment(0.5, 0.25, 0.25)(x, uniform[:2].double()), small)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_dtype_are_kept(images, uniform, dtype):
    for strengths in [(1, 0, 0), (0, 0.2, 0), (0, 0, 0.5), (1, 0.2, 0.5)]:
        out = DiffAugment(*strengths)(images.to(dtype), uniform)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)


def test_turning_one_part_off_leaves_the_others_alone(images, uniform):
    both = DiffAugment(0, 0.2, 0.5)(images, uniform)
    assert torch.equal(both, DiffAugment(0, 0, 0.5)(DiffAugment(0, 0.2, 0)(images, uniform), uniform))


def test_strength_out_of_range_is_named():
    with pytest.raises(UserError, match=r"cutout=1\.5"):
        DiffAugment(cutout=1.5)
