"""Bits a value against a linear Gaussian model, whose likelihood and posterior are known."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.evaluation.likelihood import Likelihood
from trainer.evaluation.measures import measures
from trainer.evaluation.protocol import Study
from trainer.objectives.vae import VAE
from trainer.objectives.vae_gan import VAEGAN
from trainer.sampling.conditioning import Conditioning

SIZE, LATENT = 3 * 4 * 4, 3
REFUSED = "^metrics: likelihood needs a VAE whose distortion is of pixels$"


class Linear:
    """x = A z + b + sigma n; its encoder is the exact posterior of one sigma, with variances grown by `wider`."""

    ema_weights = nullcontext

    def __init__(self, sigma, wider=1.0):
        draw = torch.Generator().manual_seed(0)
        basis, _ = torch.linalg.qr(torch.randn(SIZE, LATENT, generator=draw))
        self.matrix, self.bias = 1.5 * basis, 0.1 * torch.randn(SIZE, generator=draw)
        self.sigma, self.wider = sigma, wider

    def sample(self, latent, condition):
        return (latent @ self.matrix.T + self.bias).view(-1, 3, 4, 4)

    def posterior(self, image, condition):
        precision = 1 + 1.5**2 / self.sigma**2  # the columns of A are orthogonal
        mean = (image.flatten(1) - self.bias) @ self.matrix / self.sigma**2 / precision
        return mean, torch.full_like(mean, math.log(self.wider / precision))


def study_of(objective):
    draw = torch.Generator().manual_seed(1)
    images = objective.sample(torch.randn(60, LATENT, generator=draw), None)
    images = images + objective.sigma * torch.randn(images.shape, generator=draw)
    pixels = images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    held = SimpleNamespace(images=np.ascontiguousarray(pixels), captions=["a"] * 60, attributes=[{}] * 60)
    nothing = Condition(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1))
    sampler = SimpleNamespace(
        objective=objective, device=torch.device("cpu"), batch_size=16,
        conditions=lambda captions: nothing.rows([0] * len(captions)), conditioning=Conditioning(),
    )  # fmt: skip
    return Study(sampler, held, "heldout", 8, 60, "data", "x.ckpt", 1.0)


def figures(objective, num_latents=16):
    measure = Likelihood(num_latents)
    measure.prepare(study_of(objective))
    found = measure.figures()
    return {each.metric: each for each in found}


def test_both_bounds_are_the_likelihood_where_the_posterior_is_exact():
    objective = Linear(sigma=0.3)
    found = figures(objective)
    sigma = found["bits_per_value"].protocol["sigma"]
    assert sigma == pytest.approx(0.3, rel=0.05)
    objective.sigma = sigma
    again = figures(objective)
    images = torch.from_numpy(study_of(Linear(0.3)).references.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    exact = MultivariateNormal(objective.bias, objective.matrix @ objective.matrix.T + sigma**2 * torch.eye(SIZE))
    expected = (math.log(127.5) - exact.log_prob(images.flatten(1)).mean().item() / SIZE) / math.log(2)
    assert found["bits_per_value"].value == pytest.approx(expected, rel=2e-3)
    assert found["iwae_bits_per_value"].value == pytest.approx(expected, rel=2e-3)
    assert again["bits_per_value"].better == "lower"


def test_importance_weights_tighten_a_loose_bound():
    exact, loose = figures(Linear(0.3)), figures(Linear(0.3, wider=3.0))
    few = figures(Linear(0.3, wider=3.0), num_latents=2)["iwae_bits_per_value"].value
    bound, weighted = loose["bits_per_value"].value, loose["iwae_bits_per_value"].value
    assert exact["bits_per_value"].value < weighted < few < bound


def test_a_distortion_of_features_is_no_likelihood_of_pixels():
    cfg = SimpleNamespace(metrics=["likelihood"], matching=None, clip=None, lpips=None)
    data = SimpleNamespace(heldout=SimpleNamespace(attributes=[{}]))
    cfg.backbone = {"_target_": "types.SimpleNamespace"}
    for objective, expects in ((VAE, nullcontext()), (VAEGAN, pytest.raises(UserError, match=REFUSED))):
        with expects:
            pipe = SimpleNamespace(objective=objective, sampler=SimpleNamespace(task=None), config={"objective": {}})
            (measure,) = measures(cfg, pipe, data)
            assert isinstance(measure, Likelihood)
