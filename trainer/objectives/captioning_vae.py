"""Image to text with a latent: of one image several captions, all of them right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.reconstruction import gaussian_kl
from trainer.objectives.captioning import Captioning, nats_of

if TYPE_CHECKING:
    from trainer.networks.varied_captioner import VariedCaptioner


class CaptioningVAE(Captioning):
    """Minimises, in nats a piece, of a caption c of L pieces and its image x,

        (E_q[-log p(c | x, z)] + w max(KL(q(z | x, c) || N(0, I)), free_nats)) / L

    the negative ELBO (Kingma & Welling 2014; of captions as in Wang et al. 2017) with free bits (Kingma et al. 2016): a
    decoder that reads the pieces before needs no latent, and learns to ignore one that costs from the first nat on.
    free_nats: of each caption's KL. What is left open among k captions takes log k nats.
    warmup_kimg: w grows linearly from 0 to 1 over this many thousand images (Bowman et al. 2016).
    """

    def __init__(self, captioner: VariedCaptioner, free_nats: float = 2.0, warmup_kimg: float = 0.0, **captioning: Any):
        super().__init__(captioner=captioner, **captioning)
        if min(free_nats, warmup_kimg) < 0:
            raise UserError(f"objective.free_nats={free_nats}, warmup_kimg={warmup_kimg}: expected both from 0")
        self.free_nats, self.warmup_kimg = free_nats, warmup_kimg

    @property
    def rate_weight(self) -> float:
        return min(1.0, self.images_seen / 1000 / self.warmup_kimg) if self.warmup_kimg else 1.0

    def captioner_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, mask = batch.condition.tokens, batch.condition.mask
        noise = self.normal("captioner", batch, self.captioner.latent_channels)
        logits, mean, log_variance = self.captioner(batch.image, ids, mask, noise)
        nats, right = nats_of(self.captioner, logits, batch.condition, self.smoothing)
        rate = gaussian_kl(mean, log_variance)
        cost = torch.clamp(rate, min=self.free_nats) / mask.sum(1)
        loss = (nats + self.rate_weight * cost).mean()
        logs = {"captioner/loss": loss, "captioner/distortion": nats.mean(), "captioner/rate": rate.mean()}
        return loss, logs | {"captioner/right": right.mean()}
