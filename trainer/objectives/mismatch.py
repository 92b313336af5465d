"""Matching-aware discrimination (Reed et al. 2016): images must fit their own captions better than others'."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import softplus

from trainer.batch import Batch
from trainer.losses.adversarial import per_sample
from trainer.objectives.guidance import DROPPED


def mismatch(discriminator: Any, batch: Batch, features: Any, logits: Tensor) -> Tensor:
    """(N,) softplus(D(x, c') - D(x, c)): an image must fit its own caption c better than another's, c'.

    features, logits: of x and c. Of a discriminator whose heads do not all read the caption, those that do are compared
    (`matched`, the first of its logits): the others would say the same twice, at the cost of their convolutions.
    """
    other = batch.neighbour()
    differs = (batch.caption != batch.caption[other]) & (batch.caption[other] != DROPPED)  # it fits every image
    read = getattr(discriminator, "matched", discriminator.logits)
    wrong = read(features, batch.condition.rows(other))
    own = logits.flatten(1)[:, 0] if wrong.dim() < logits.dim() else logits
    return differs * per_sample(softplus(wrong - own))
