"""Image-text matching: a dual encoder in which each image finds its caption, and each caption its image (DAMSM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.batch import Batch, Condition
from trainer.errors import UserError
from trainer.losses import matching
from trainer.objectives.base import Objective

if TYPE_CHECKING:
    from trainer.networks.matching import Matcher


class DualEncoder(Objective):
    """Minimises L_1^w + L_2^w + L_1^s + L_2^s of DAMSM (Xu et al. 2018, eq. 12 and 13), words w and sentences s.

    Images and captions of all ranks are contrasted with each other, so the loss is that of one process with the whole
    batch. Micro-batches would contrast less: accumulate > 1 is refused.
    gamma1, gamma2, gamma3: sharpness of a word's attention, of the best-matched words, and of the contrast.
    words: weight of the word-level terms.
    """

    any_size = True
    averaged = ("matcher",)
    matcher: Any

    def __init__(
        self,
        matcher: Matcher,
        gamma1: float = 5.0,
        gamma2: float = 5.0,
        gamma3: float = 10.0,
        words: float = 1.0,
        **loop: Any,
    ):
        super().__init__(**loop)
        if self.accumulate > 1:
            raise UserError(
                f"objective.accumulate={self.accumulate}: a micro-batch has fewer captions to tell apart; "
                "expected 1 for objective=matching, lower data.batch_size instead"
            )
        self.matcher = matcher
        self.gamma1, self.gamma2, self.gamma3 = gamma1, gamma2, gamma3
        self.words = words
        self.phases = {"matcher": self.matcher_loss}

    def matcher_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        sentence, word, correct = self.contrast(batch.image, batch.condition, batch.caption, self.strategy.gather)
        loss = (sentence + self.words * word).mean()
        logs = {"loss": loss, "sentence": sentence.mean(), "word": word.mean(), "accuracy": correct.float().mean()}
        return loss, {f"matcher/{key}": value for key, value in logs.items()}

    def contrast(
        self, image: Tensor, condition: Condition, caption: Tensor, gather: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of sentences and of words, and whether an image's caption ranks first, each (N,) over all ranks.

        image: (N, 3, H, W) in [-1, 1]; caption: (N,) numbers, equal ones are not told apart. gather: (N, ...) of this
        rank to those of all; a rank scores its own images against all captions.
        """
        pooled, regions = self.matcher.image(image)
        text, words = self.matcher.text(condition)
        text, words, mask, caption = (gather(each) for each in (text, words, condition.mask, caption))
        sentence = gather(matching.global_scores(pooled, text))
        word = gather(matching.word_scores(regions, words, mask, self.gamma1, self.gamma2))
        losses = [
            matching.caption_given_image(scores, caption, self.gamma3)
            + matching.image_given_caption(scores, caption, self.gamma3)
            for scores in (sentence, word)
        ]
        best = caption[sentence.argmax(1)]
        return losses[0], losses[1], torch.eq(best, caption)
