"""Image to text: a captioner learns the captions of images, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.captioner import Captioner


class Captioning(Objective):
    """Minimises -log p(caption | image), a mean over the pieces of a caption (Vinyals et al. 2015).

    Captions are ids of a tokenizer: text=pieces. smoothing: of labels, in [0, 1).
    """

    averaged = ("captioner",)
    captioner: Any

    def __init__(self, captioner: Captioner, smoothing: float = 0.0, **loop: Any):
        super().__init__(**loop)
        if not 0 <= smoothing < 1:
            raise UserError(f"objective.smoothing={smoothing}: expected a share in [0, 1)")
        self.captioner, self.smoothing = captioner, smoothing
        self.phases = {"captioner": self.captioner_loss}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data.text, "end"):
            raise UserError("a captioner writes pieces of words: say text=pieces")
        if data.text.vocabulary != self.captioner.vocabulary:
            raise UserError(
                f"text.network.vocabulary={self.captioner.vocabulary}, but the tokenizer has {data.text.vocabulary} "
                f"pieces: set text.network.vocabulary={data.text.vocabulary}"
            )
        if not self.images_seen:  # else the checkpoint has them
            self.captioner.learn(data.text(data.train.cache.captions).tokens.to(self.device))

    def captioner_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        ids, mask = batch.condition.tokens, batch.condition.mask
        numbers = self.captioner.numbers(ids)
        logits = self.captioner(batch.image, ids).float().transpose(1, 2)
        nats = cross_entropy(logits, numbers, reduction="none", label_smoothing=self.smoothing)
        loss = ((nats * mask).sum(1) / mask.sum(1)).mean()
        right = (torch.eq(logits.detach().argmax(1), numbers) | ~mask).all(1).float().mean()
        return loss, {"captioner/loss": loss, "captioner/right": right}
