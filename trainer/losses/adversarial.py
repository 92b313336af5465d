"""Adversarial losses: what the discriminator D and the generator G make of logits, where higher means real.

Each class has `discriminator(real_logits, fake_logits)` and `generator(fake_logits, real_logits)`, both elementwise, to
be minimised, in float32 whatever the logits' dtype. Logits are (N,) or, of several heads, scales or patches, (N, ...);
the mean of a sample is taken behind the loss (`per_sample`). `needs_real` says whether the generator's loss looks at
real logits; where it does not they may be None. In the equations r = D(x) and f = D(G(z)).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus


def per_sample(values: Tensor) -> Tensor:
    """(N,) means of values (N, ...): every head counts alike, so that their number rescales no term."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


class NonSaturating:
    """Non-saturating logistic loss (Goodfellow et al. 2014): L_D = softplus(-r) + softplus(f), L_G = softplus(-f)."""

    needs_real = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(-real_logits.float()) + softplus(fake_logits.float())

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return softplus(-fake_logits.float())


class Hinge:
    """Hinge loss (Lim & Ye 2017): L_D = max(0, 1 - r) + max(0, 1 + f), L_G = -f."""

    needs_real = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return relu(1 - real_logits.float()) + relu(1 + fake_logits.float())

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return -fake_logits.float()


class LeastSquares:
    """Least-squares GAN (Mao et al. 2017): L_D = (r - 1)^2 + f^2, L_G = (f - 1)^2."""

    needs_real = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return (real_logits.float() - 1).square() + fake_logits.float().square()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return (fake_logits.float() - 1).square()


class Relativistic:
    """Relativistic pairing loss, RpGAN (Jolicoeur-Martineau 2018; Huang et al. 2024, "R3GAN").

    L_D = softplus(-(r - f)), L_G = softplus(-(f - r)): sample i of the reals against sample i of the fakes.
    """

    needs_real = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus(fake_logits.float() - real_logits.float())

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        assert real_logits is not None, "the relativistic generator loss compares with real logits"
        return softplus(real_logits.float() - fake_logits.float())


class Wasserstein:
    """Wasserstein loss (Arjovsky et al. 2017): L_D = f - r, L_G = -f. D must be Lipschitz, see `gradient_penalty`."""

    needs_real = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits.float() - real_logits.float()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return -fake_logits.float()
