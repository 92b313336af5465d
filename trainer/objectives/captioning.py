"""Image to text: a captioner learns the captions of images, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.batch import Batch, Condition
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
        learn_pieces(self)

    def captioner_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.captioner(batch.image, batch.condition.tokens)
        nats, right = nats_of(self.captioner, logits, batch.condition, self.smoothing)
        loss = nats.mean()
        return loss, {"captioner/loss": loss, "captioner/right": right.mean()}


def nats_of(
    captioner: Any, logits: Tensor, condition: Condition, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(N,) -log p of captions of ids, a mean over their pieces, and (N,) whether the likeliest pieces are all right.

    logits: (N, L, K), as `Captioner` makes them of these ids.
    """
    numbers, mask = captioner.numbers(condition.tokens), condition.mask
    logits = logits.float().transpose(1, 2)
    nats = cross_entropy(logits, numbers, reduction="none", label_smoothing=smoothing)
    right = (torch.eq(logits.detach().argmax(1), numbers) | ~mask).all(1).float()
    return (nats * mask).sum(1) / mask.sum(1), right


def learn_pieces(objective: Any) -> None:
    """Tells the captioner of an objective, at the start of a new run, which pieces captions of training have.

    UserError for a text encoder without a tokenizer, or with another vocabulary than the captioner's.
    """
    data, captioner = objective.trainer.datamodule, objective.captioner
    if not hasattr(data.text, "end"):
        raise UserError("a captioner writes pieces of words: say text=pieces")
    if data.text.vocabulary != captioner.vocabulary:
        raise UserError(
            f"text.network.vocabulary={captioner.vocabulary}, but the tokenizer has {data.text.vocabulary} "
            f"pieces: set text.network.vocabulary={data.text.vocabulary}"
        )
    if not objective.images_seen:  # else the checkpoint has them
        captioner.learn(data.text(data.train.cache.captions).tokens.to(objective.device))
