"""VQGAN (Esser et al. 2021): a tokenizer whose reconstructions look right to a frozen network and a discriminator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.losses.adversarial import per_sample
from trainer.objectives.gan import Adversarial
from trainer.objectives.tokenizer import Autoencoding

RAISED = 2.0**10  # a gradient within a loss has no loss scale; as a power of two this changes none but those of fp16


class VQGAN(Autoencoding):
    """Minimises distortion + perceptual_weight * perceptual + cost + weight(images seen) * w * adversarial.

    perceptual: (reconstruction, image) -> (N,). discriminator: images -> logits (N, h, w); it trains from the first
    image on, its loss counts after `discriminator_start_kimg` and grows to `adversarial_weight` over
    `discriminator_ramp_kimg`. So it knows what to look for by then, and the reconstructions are not thrown back.
    w: |gradient of distortion and perceptual| / |gradient of adversarial|, at most `max_weight`, in float32. The paper
    takes both at the decoder's last layer over the batch; here at each reconstruction, so that neither ranks nor
    micro-batches change it.
    """

    discriminator: Any

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Adversarial,
        perceptual: Callable[[Tensor, Tensor], Tensor],
        perceptual_weight: float = 1.0,
        adversarial_weight: float = 0.02,
        max_weight: float = 10.0,
        discriminator_start_kimg: float = 10.0,
        discriminator_ramp_kimg: float = 10.0,
        **tokenizer: Any,
    ):
        super().__init__(**tokenizer)
        self.discriminator = discriminator
        self.loss = loss
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.adversarial_weight, self.max_weight = adversarial_weight, max_weight
        self.start_kimg, self.ramp_kimg = discriminator_start_kimg, discriminator_ramp_kimg
        self.kept: deque[Tensor] = deque()  # reconstructions of each micro-batch, for the discriminator's phase
        self.phases["discriminator"] = self.discriminator_loss

    @property
    def ramp(self) -> float:
        """How much of the adversarial loss counts, in [0, 1]."""
        since = self.images_seen / 1000 - self.start_kimg
        return min(1.0, max(0.0, since / self.ramp_kimg)) if self.ramp_kimg else float(since >= 0)

    def autoencoder_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        reconstructed, cost, logs = self.passed(batch)
        reconstructed = reconstructed.float()
        self.kept.append(reconstructed.detach())
        distortion = self.reconstruction(reconstructed, batch.image)
        perceptual = self.perceptual(reconstructed, batch.image)
        likeness = distortion + self.perceptual_weight * perceptual
        logs |= {"autoencoder/distortion": distortion.mean(), "autoencoder/perceptual": perceptual.mean()}
        if not self.ramp:
            loss = (likeness + cost).mean()
            return loss, logs | {"autoencoder/loss": loss}
        adversarial = per_sample(self.loss.generator(self.discriminator(reconstructed), None))
        towards_image, towards_real = (
            torch.autograd.grad(RAISED * each.sum(), reconstructed)[0] / RAISED for each in (likeness, adversarial)
        )
        weight = adaptive_weight(towards_image, towards_real, self.max_weight)
        factor = self.ramp * self.adversarial_weight * weight
        loss = (likeness + cost + factor * adversarial).mean()
        logs |= {"autoencoder/loss": loss, "autoencoder/adversarial": adversarial.mean()}
        logs["autoencoder/adversarial_weight"] = weight.mean()
        # both gradients are known at the image: from there on, those of the loss, without a second way back to it
        slope = towards_image + factor.view(-1, 1, 1, 1) * towards_real
        return ((reconstructed * slope).flatten(1).sum(1) + cost).mean(), logs

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        real_logits, fake_logits = self.discriminator(batch.image), self.discriminator(self.kept.popleft())
        loss = per_sample(self.loss.discriminator(real_logits, fake_logits)).mean()
        logs = {"loss": loss, "real_logits": real_logits.mean(), "fake_logits": fake_logits.mean()}
        return loss, {f"discriminator/{key}": value for key, value in logs.items()}


def adaptive_weight(likeness: Tensor, adversarial: Tensor, most: float) -> Tensor:
    """(N,) |likeness| / |adversarial| of gradients (N, ...), in [0, most] (Esser et al. 2021, equation 7)."""
    norms = [each.float().flatten(1).norm(dim=1) for each in (likeness, adversarial)]
    return (norms[0] / norms[1].clamp(min=1e-12)).clamp(max=most)
