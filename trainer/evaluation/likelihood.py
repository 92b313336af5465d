"""What a VAE needs to tell held-out images, in bits a value: the numbers by which likelihood models are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Condition
from trainer.evaluation.protocol import Study
from trainer.metrics import distributed
from trainer.runs.results import Figure

LEVEL = math.log(127.5)  # a level of an 8-bit image is 1 / 127.5 of [-1, 1] wide


class Likelihood:
    """Upper bounds of -log2 P(image | caption) a value: by the ELBO, and importance-weighted (IWAE, Burda et al. 2016).

    log w_k = log p(x | z_k, c) + log p(z_k) - log q(z_k | x, c), z_k ~ q; the ELBO is the mean of log w_k over all k,
    the tighter bound log mean_k w_k with `num_latents` k. p(x | z, c) is Gaussian about the decoder's image, with one
    sigma for all values of all images, that of what comes back of the references: a training that gives each image its
    best sigma (`gaussian_nll`) has no likelihood otherwise. The objective has `posterior` and draws with its decoder.
    """

    def __init__(self, num_latents: int = 16):
        self.num_latents = num_latents

    def prepare(self, study: Study) -> None:
        self.study = study

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Samples have no posterior."""

    @torch.no_grad()
    def figures(self) -> list[Figure]:
        study, objective = self.study, self.study.sampler.objective
        with objective.ema_weights():
            errors = torch.zeros(2, dtype=torch.float64)
            for numbers, images, condition in self.references():
                mean, log_variance = objective.posterior(images, condition)
                latent, _ = latents(mean, log_variance, numbers, 0)
                error = (objective.sample(latent, condition) - images).double().square()
                errors += torch.stack([error.sum().cpu(), torch.tensor(error.numel(), dtype=torch.float64)])
            squares, values = distributed.add(errors, study.device).tolist()
            variance = squares / values
            sums = torch.zeros(2, dtype=torch.float64)
            for numbers, images, condition in self.references():
                weights = self.log_weights(numbers, images, condition, variance)
                bound = weights.logsumexp(0) - math.log(len(weights))
                sums += torch.stack([weights.mean(0).sum(), bound.sum()]).cpu()
        totals = distributed.add(sums, study.device)
        elbo, weighted = ((LEVEL - totals / values) / math.log(2)).tolist()
        protocol: dict[str, Any] = {"num_images": study.num_references, "captions": "own", "sigma": variance**0.5}
        return [
            study.figure("bits_per_value", elbo, "lower", **protocol),
            study.figure("iwae_bits_per_value", weighted, "lower", **protocol, num_latents=self.num_latents),
        ]

    def log_weights(self, numbers: Sequence[int], images: Tensor, condition: Condition, variance: float) -> Tensor:
        """(K, N) log w_k in nats of images (N, 3, H, W) in [-1, 1]."""
        objective, found = self.study.sampler.objective, []
        mean, log_variance = objective.posterior(images, condition)
        for k in range(self.num_latents):
            latent, normals = latents(mean, log_variance, numbers, k)
            error = (objective.sample(latent, condition) - images).double().square().flatten(1).sum(1)
            likelihood = -0.5 * (error / variance + images[0].numel() * math.log(2 * math.pi * variance))
            # log p(z) - log q(z): the constants of the two Gaussians cancel
            ratio = 0.5 * (normals.square() + log_variance - latent.square()).double().sum(1)
            found.append(likelihood + ratio)
        return torch.stack(found)

    def references(self) -> Iterator[tuple[list[int], Tensor, Condition]]:
        """Numbers, images in [-1, 1] and conditions of this rank's references, some at a time."""
        study, index = self.study, self.study.reference_index
        for numbers, pixels in study.reference_images():
            images = pixels.to(study.device).float().div(127.5).sub(1)
            condition = study.sampler.conditions([study.references.captions[index[i]] for i in numbers])
            yield numbers, images, condition.to(study.device)


def latents(mean: Tensor, log_variance: Tensor, numbers: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """The k-th latents (N, Z) of the posteriors of references, and the normals that they are made of."""
    normals = noise.normal(0, f"likelihood/{k}", torch.tensor([*numbers]), mean.shape[1]).to(mean.device)
    return mean + (0.5 * log_variance).exp() * normals, normals
