"""Text to image and back: a GAN and a captioner that teach each other."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.objectives.captioning import learn_pieces, nats_of
from trainer.objectives.gan import GAN
from trainer.objectives.guidance import DROPPED

if TYPE_CHECKING:
    from trainer.networks.captioner import Captioner


class TextGAN(GAN):
    """A GAN whose generator also minimises, of captions c of ids (text=pieces) and with a captioner p,

        cycle E[-log p(c | G(z, c))]

    a mean over the pieces of c: what it draws must be described by its caption again (the cycle of text, STREAM, of
    MirrorGAN, Qiao et al. 2019). cycle grows from 0 over warmup_kimg thousand images, as at first the captioner
    knows nothing, and less of what is no picture yet. It learns from real images x beside it, and from generated ones:

        E[-log p(c | x)] + generated_pairs E[-log p(c | G(z, c))]

    Real images keep both to what words mean: with generated ones alone they could agree on signs of their own.
    Captions that are dropped count in neither.
    """

    averaged = ("generator", "captioner")
    captioner: Any

    def __init__(
        self,
        captioner: Captioner,
        cycle: float = 1.0,
        warmup_kimg: float = 0.0,
        generated_pairs: float = 0.0,
        **gan: Any,
    ):
        super().__init__(**gan)
        if min(cycle, warmup_kimg, generated_pairs) < 0:
            given = f"objective.cycle={cycle}, warmup_kimg={warmup_kimg}, generated_pairs={generated_pairs}"
            raise UserError(f"{given}: expected all from 0")
        self.captioner, self.cycle, self.warmup_kimg = captioner, cycle, warmup_kimg
        self.generated_pairs = generated_pairs
        self.drawn: deque[Tensor] = deque()  # of each micro-batch, from the generator's phase to the captioner's
        self.phases["captioner"] = self.captioner_loss

    def on_fit_start(self) -> None:
        super().on_fit_start()
        learn_pieces(self)

    @property
    def cycle_weight(self) -> float:
        warm = min(1.0, self.images_seen / 1000 / self.warmup_kimg) if self.warmup_kimg else 1.0
        return warm * self.cycle

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        generated = self.fresh(batch)
        loss, logs = self.judged(generated, batch)
        if self.generated_pairs:
            self.drawn.append(generated.detach())
        if not self.cycle:
            return loss, logs
        nats, right = self.told(generated, batch)
        return loss + self.cycle_weight * nats, logs | {"generator/cycle": nats, "generator/described": right}

    def captioner_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, right = self.told(batch.image, batch)
        logs = {"captioner/loss": loss, "captioner/right": right}
        if self.generated_pairs:
            nats, _ = self.told(self.drawn.popleft(), batch)
            logs["captioner/generated"] = nats
            loss = loss + self.generated_pairs * nats
        return loss, logs

    def told(self, image: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """-log p of the captions of a batch, given these images (N, 3, H, W), and the share of those all right."""
        logits = self.captioner(image, batch.condition.tokens)
        nats, right = nats_of(self.captioner, logits, batch.condition)
        kept = batch.caption != DROPPED
        return (nats * kept).mean(), (right * kept).mean()
