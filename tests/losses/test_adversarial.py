"""Adversarial losses against their formulas."""

import math

import pytest
import torch

from trainer.losses.adversarial import Hinge, NonSaturating, Relativistic, Wasserstein

REAL = [2.0, -0.5, 0.3]
FAKE = [-1.5, 0.25, 4.0]


def log1p_exp(x: float) -> float:
    return math.log(1 + math.exp(x))


EXPECTED = {
    NonSaturating: (lambda r, f: log1p_exp(-r) + log1p_exp(f), lambda r, f: log1p_exp(-f)),
    Hinge: (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    Relativistic: (lambda r, f: log1p_exp(-(r - f)), lambda r, f: log1p_exp(-(f - r))),
    Wasserstein: (lambda r, f: f - r, lambda r, f: -f),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_equals_the_written_formula(kind):
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    discriminator, generator = EXPECTED[kind]
    torch.testing.assert_close(
        kind().discriminator(real, fake), torch.tensor([discriminator(r, f) for r, f in zip(REAL, FAKE, strict=True)])
    )
    torch.testing.assert_close(
        kind().generator(fake, real), torch.tensor([generator(r, f) for r, f in zip(REAL, FAKE, strict=True)])
    )


@pytest.mark.parametrize("kind", EXPECTED)
def test_players_pull_apart_and_half_precision_is_raised(kind):
    real = torch.tensor(REAL, requires_grad=True)
    fake = torch.tensor(FAKE, requires_grad=True)
    from_real, from_fake = torch.autograd.grad(kind().discriminator(real, fake).sum(), (real, fake))
    assert (from_real <= 0).all()
    assert (from_real < 0).any()
    assert (from_fake >= 0).all()
    assert (from_fake > 0).any()
    (from_generator,) = torch.autograd.grad(kind().generator(fake, real.detach()).sum(), fake)
    assert (from_generator < 0).all()
    assert kind().discriminator(real.bfloat16(), fake.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("kind", EXPECTED)
def test_only_a_loss_that_needs_real_logits_uses_them(kind):
    fake = torch.tensor(FAKE)
    if kind.needs_real:
        with pytest.raises(AssertionError, match="real logits"):
            kind().generator(fake, None)
    else:
        assert torch.equal(kind().generator(fake, None), kind().generator(fake, torch.tensor(REAL)))


def test_relativistic_is_symmetric_and_sees_differences_only():
    real, fake, loss = torch.tensor(REAL), torch.tensor(FAKE), Relativistic()
    assert torch.equal(loss.discriminator(real, fake), loss.generator(real, fake))
    torch.testing.assert_close(loss.discriminator(real + 3, fake + 3), loss.discriminator(real, fake))
