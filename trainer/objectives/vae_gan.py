"""VAE/GAN (Larsen et al. 2016): a VAE whose distortion is measured in the features of its discriminator."""

from __future__ import annotations

from contextlib import nullcontext
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, softplus

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.adversarial import per_sample
from trainer.losses.reconstruction import gaussian_energy, gaussian_kl
from trainer.losses.regularizers import r1
from trainer.objectives.mismatch import mismatch
from trainer.objectives.penalties import differentiable_twice
from trainer.objectives.vae import VAE


class VAEGAN(VAE):
    """Three players, of which encoder and decoder share a phase; all terms in nats per image (algorithm 1).

    Of an image x with caption c: x~ is decoded of z ~ q(z | x, c), x_p of z_p ~ N(0, I); D(x, c) is the discriminator's
    logit, l(x) its features before it reads the caption, normalised by layer (Ba et al. 2016) as the paper's are by
    batch: else D, which tells images by them, makes them as large as it likes.
    like = 1/2 |l(x) - l(x~)|^2, which is -log N(l(x); l(x~), I) but for a constant; rate = KL(q(z | x, c) || N(0, I)).
    Encoder: like + kl_weight * rate.
    Decoder: like_weight * like + softplus(-D(x~, c)) + softplus(-D(x_p, c)); the paper's gamma, and the loss that does
    not saturate in place of log(1 - D) (Goodfellow et al. 2014).
    Discriminator: softplus(-D(x, c)) + softplus(D(x~, c)) + softplus(D(x_p, c)), of the images that were decoded.
    matching: weight of telling an image's caption from another's (`trainer.objectives.gan.mismatch`), for decoder and
    discriminator. r1: gamma of gamma/2 |grad D|^2 at x, every `penalty_interval` batches and scaled by it.
    """

    explains_pixels = False
    discriminator: Any

    def __init__(
        self,
        discriminator: nn.Module,
        like_weight: float = 1.0,
        matching: float = 0.0,
        r1: float = 0.0,
        penalty_interval: int = 1,
        **vae: Any,
    ):
        super().__init__(reconstruction=gaussian_energy, **vae)
        if not isinstance(getattr(discriminator, "features", None), nn.Module):
            raise UserError(
                f"objective.discriminator of {type(discriminator).__module__}: expected one whose features are one map "
                "of the image; take dcgan, residual, r3gan, stylegan2 or transformer"
            )
        self.discriminator = discriminator
        self.like_weight, self.matching = like_weight, matching
        self.together = lcm(2 if matching else 1, getattr(discriminator, "group", 1))
        self.r1, self.penalty_interval = r1, penalty_interval
        self.kept: list[Tensor] = []
        self.phases["discriminator"] = self.discriminator_loss

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Decodes z twice: once for the encoder and once, without a way back to it, for what only the decoder minds.

        The decoder's share of `like` is 1 of the first and like_weight - 1 of the second.
        """
        mean, log_variance = self.posterior(batch.image, batch.condition)
        latent = mean + (0.5 * log_variance).exp() * self.normal("autoencoder", batch, self.latent_channels)
        prior = self.normal("autoencoder/prior", batch, self.latent_channels)
        latents = torch.cat([latent, latent.detach(), prior])
        decoded = self.autoencoder.decoder(latents, repeated(batch, 3).condition).float()
        features = self.discriminator.features(decoded)
        with torch.no_grad():
            target = normalised(self.discriminator.features(batch.image))

        like, again = (self.reconstruction(each, target) for each in normalised(features).split(len(batch))[:2])
        rate = gaussian_kl(mean, log_variance)
        both, judged = repeated(batch, 2), features[len(batch) :]  # x~ and x_p
        self.kept.append(decoded[len(batch) :].detach())
        logits = self.discriminator.logits(judged, both.condition)
        adversarial = per_sample(softplus(-logits.float()))
        logs = {"distortion": like.mean(), "rate": rate.mean(), "adversarial": 2 * adversarial.mean()}
        if self.matching:
            differs = mismatch(self.discriminator, both, judged, logits)
            logs["mismatch"] = differs.mean()
            adversarial = adversarial + self.matching * differs
        loss = (like + self.rate_weight * rate + (self.like_weight - 1) * again).mean() + 2 * adversarial.mean()
        return loss, {f"autoencoder/{key}": value for key, value in {"loss": loss, **logs}.items()}

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        real, fake = batch.image, self.kept.pop(0)
        twice = self.r1 and self.trainer.global_step % self.penalty_interval == 0
        if twice:
            self.until_backward.enter_context(self.strategy.full_params(self.discriminator))
            real = real.detach().requires_grad_()
        with differentiable_twice(real.device.type) if twice else nullcontext():
            features = self.discriminator.features(real)
            real_logits = self.discriminator.logits(features, batch.condition)
            fake_logits = self.discriminator.logits(self.discriminator.features(fake), repeated(batch, 2).condition)
            loss = softplus(-real_logits.float()).mean() + 2 * softplus(fake_logits.float()).mean()
            of_prior = fake_logits[len(batch) :].mean()
            logs = {"real_logits": real_logits.mean(), "fake_logits": fake_logits.mean(), "prior_logits": of_prior}
            if self.matching:
                differs = mismatch(self.discriminator, batch, features, real_logits).mean()
                logs["mismatch"] = differs
                loss = loss + self.matching * differs
            logs["loss"] = loss
            if twice:
                logs["r1"] = r1(per_sample(real_logits), real).mean()
                loss = loss + self.penalty_interval * self.r1 / 2 * logs["r1"]
        return loss, {f"discriminator/{key}": value for key, value in logs.items()}


def normalised(features: Tensor) -> Tensor:
    """Features (N, ...) as (N, D), of mean 0 and variance 1 over the D of each sample."""
    features = features.float().flatten(1)
    return layer_norm(features, features.shape[1:])


def repeated(batch: Batch, times: int) -> Batch:
    """The samples of a batch, all of them, so many times."""
    return batch[torch.arange(len(batch), device=batch.position.device).repeat(times)]
