"""Classifier-free guidance (Ho & Salimans 2022): captions dropped in training, and what sampling then extrapolates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Batch, Condition
from trainer.errors import UserError

DROPPED = -1  # in the place of a caption's number


class Guided:
    """Part of whatever draws by `sample`."""

    sample: Callable[[Tensor, Condition], Tensor]
    draws_with: str
    get_submodule: Callable[[str], Any]

    def guided(self, latent: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1]: at scale 1 those of `condition`, beyond it less like those of another one.

        G(z, c0) + scale (G(z, c) - G(z, c0)), clamped, for a generator of one step, which can be guided nowhere but in
        its image; a network that draws step by step has a `guided` of its own. unconditional: c0, N rows, with as many
        tokens as condition; the empty caption, or one to go away from, or the caption without its source.
        """
        network = self.get_submodule(self.draws_with)
        if hasattr(network, "guided"):
            return self.finished(network.guided(latent, condition, unconditional, scale), condition)
        without = self.sample(latent, unconditional).clone()  # CUDA graphs write the next images to the same memory
        return self.finished(without.lerp(self.sample(latent, condition), scale), condition)

    def guided_by_both(
        self, latent: Tensor, conditions: tuple[Condition, Condition, Condition], scale: float, source_scale: float
    ) -> Tensor:
        """Images of a source s and a caption c, led by each: conditions (no source, c0), (s, c0), (s, c), N rows each.

        G(z, 0, c0) + source_scale (G(z, s, c0) - G(z, 0, c0)) + scale (G(z, s, c) - G(z, s, c0)), clamped: equation 3
        of InstructPix2Pix (Brooks et al. 2023), in the image where theirs is in the noise of each step. What the source
        says for certain is put back.
        """
        neither, source = (self.sample(latent, condition).clone() for condition in conditions[:2])
        both = self.sample(latent, conditions[2])
        return self.finished(neither.lerp(source, source_scale) + scale * (both - source), conditions[2])

    def finished(self, images: Tensor, condition: Condition) -> Tensor:
        """Within [-1, 1], with what an image task knows of its source."""
        task, images = getattr(self.get_submodule(self.draws_with), "task", None), images.clamp(-1, 1)
        return images if task is None else task.keep(images, condition.source).clamp(-1, 1)


class CaptionDropout(Guided):
    """Part of an objective: with probability text.caption_dropout a sample's caption is the empty one in its step.

    Decided by the counter noise of its position, so that neither ranks nor a resume change it.
    """

    config: dict[str, Any]
    uniform: Callable[[str, Batch, int], Tensor]
    empty_caption: Condition | None = None  # one row, on the device

    def on_host(self, batch: Batch) -> Batch:
        """A batch before it goes to the device, with what a loss would else have to look up on the host."""
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """As float, on the device: uint8 and float16 travel."""
        return self.with_dropped(batch.as_float())

    def with_dropped(self, batch: Batch) -> Batch:
        """With the empty caption in place of those that are dropped."""
        probability = (self.config.get("text") or {}).get("caption_dropout", 0.0)
        if not probability:
            return batch
        if self.empty_caption is None:
            loop: Any = self
            self.empty_caption = empty_caption(loop.trainer.datamodule.text).to(batch.position.device)
        chosen = self.uniform("caption dropout", batch, 1)[:, 0] < probability
        if batch.other is not None:
            batch = replace(batch, other=dropped(batch.other, self.empty_caption, chosen))
        return dropped(batch, self.empty_caption, chosen)


def empty_caption(text: Any) -> Condition:
    """The Condition, one row, of a text encoder of a training, which keeps it beside those of the data."""
    if getattr(text, "wordless", False):
        raise UserError("text.caption_dropout: this run reads no captions; leave it out")
    return text.prepare([""])[np.zeros(1, np.int64)].float()


def dropped(batch: Batch, empty: Condition, chosen: Tensor) -> Batch:
    """With the empty caption where chosen, (N,) bool, and `DROPPED` for its number: none of these differ."""
    own = batch.condition
    condition = own._replace(
        tokens=torch.where(chosen.view(-1, *[1] * (own.tokens.dim() - 1)), empty.tokens, own.tokens),
        mask=torch.where(chosen[:, None], empty.mask, own.mask),
        pooled=torch.where(chosen[:, None], empty.pooled, own.pooled),
    )
    return replace(batch, condition=condition, caption=batch.caption.masked_fill(chosen, DROPPED))
