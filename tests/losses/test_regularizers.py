"""Penalties against closed forms: for D(x) = x' A x / 2 + b' x the gradient is A x + b."""

import pytest
import torch

from trainer.losses.regularizers import approximate_r1, gradient_norm2, gradient_penalty, r1, r2

N, D = 5, 12


@pytest.fixture
def quadratic():
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(D, D, generator=random)
    matrix = (matrix + matrix.T).requires_grad_()
    bias = torch.randn(D, generator=random)
    images = torch.randn(N, 3, 2, 2, generator=random)

    def discriminate(x):
        flat = x.flatten(1)
        return 0.5 * torch.einsum("nd,de,ne->n", flat, matrix, flat) + flat @ bias

    return discriminate, matrix, bias, images


@pytest.mark.parametrize("penalty", [r1, r2, gradient_norm2])
def test_exact_penalty_and_its_gradient(quadratic, penalty):
    discriminate, matrix, bias, images = quadratic
    images.requires_grad_()
    value = penalty(discriminate(images), images)
    expected = (images.flatten(1) @ matrix + bias).square().sum(1)
    torch.testing.assert_close(value, expected)
    (by_penalty,) = torch.autograd.grad(value.sum(), matrix)
    (by_formula,) = torch.autograd.grad(expected.sum(), matrix)
    torch.testing.assert_close(by_penalty, (by_formula + by_formula.T) / 2)  # D sees the symmetric part of A only


def test_penalty_stays_float32_under_autocast(quadratic):
    discriminate, _, _, images = quadratic
    images.requires_grad_()
    logits = discriminate(images)
    expected = r1(logits, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(r1(logits, images), expected)
        value = gradient_penalty(discriminate, images, images, torch.zeros(N))
    assert torch.equal(value, gradient_penalty(discriminate, images, images, torch.zeros(N)))


def test_forgotten_requires_grad_is_told(quadratic):
    discriminate, _, _, images = quadratic
    with pytest.raises(AssertionError, match="requires_grad_"):
        r1(discriminate(images), images)


def test_approximate_r1_is_the_written_difference_and_tends_to_r1(quadratic):
    discriminate, matrix, bias, images = quadratic
    noise = torch.randn(20_000, *images.shape[1:], generator=torch.Generator().manual_seed(1))
    image = images[:1].expand_as(noise)
    logits = discriminate(image)
    value = approximate_r1(discriminate, image, logits, noise, sigma=0.01)
    torch.testing.assert_close(value, (logits - discriminate(image + 0.01 * noise)).square() / 1e-4)
    exact = (images[0].flatten() @ matrix + bias).square().sum()
    assert abs(value.mean() / exact - 1) < 0.05  # relative error of the mean: sqrt(2 / 20000) = 1 %
    assert torch.autograd.grad(value.mean(), matrix)[0].abs().sum() > 0


def test_gradient_penalty_at_the_mixed_image(quadratic):
    discriminate, matrix, bias, real = quadratic
    fake, mix = real.flip(0) * 2, torch.linspace(0, 0.9, N)
    value = gradient_penalty(discriminate, real, fake, mix, target=0.5)
    between = mix[:, None] * real.flatten(1) + (1 - mix[:, None]) * fake.flatten(1)
    torch.testing.assert_close(value, ((between @ matrix + bias).norm(dim=1) - 0.5).square())


def test_gradient_penalty_survives_a_flat_discriminator():
    weight = torch.zeros(D, requires_grad=True)
    images = torch.randn(N, D)
    value = gradient_penalty(lambda x: x @ weight, images, images, torch.zeros(N))
    torch.testing.assert_close(value, torch.ones(N), atol=1e-4, rtol=0)
    assert torch.autograd.grad(value.sum(), weight)[0].isfinite().all()
