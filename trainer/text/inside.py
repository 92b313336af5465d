"""A frozen text encoder as a module: from the ids of captions, padded to one length, to their features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.text.features import FLOAT16_MAX
from trainer.text.models import last, mean, projected, unit_mean


def masked_mean(output: Any, mask: Tensor) -> Tensor:
    return (output.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def masked_last(output: Any, mask: Tensor) -> Tensor:
    is_last = F.one_hot(mask.sum(1) - 1, mask.shape[1])
    return (output.last_hidden_state * is_last[..., None]).sum(1)


# the pooling of captions one by one -> the same where they are padded to one length
POOLS: dict[Callable[[Any], Tensor], Callable[[Any, Tensor], Tensor]] = {
    mean: masked_mean,
    unit_mean: lambda output, mask: F.normalize(masked_mean(output, mask), dim=1),
    last: masked_last,
    projected: lambda output, mask: projected(output),  # finds the end of the text by its id
}


class Encoder(nn.Module):
    """Condition of ids (N, L) to the Condition of features that `trainer.text.pretrained` makes of the captions.

    Features are rounded to float16 as there, so that the images are the same. A caption without tokens has its first
    padding as the one token, as there.
    """

    def __init__(self, model: nn.Module, pool: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, condition: Condition) -> Condition:
        mask = condition.mask | (torch.arange(condition.mask.shape[1], device=condition.mask.device) == 0)
        output = self.model(input_ids=condition.tokens, attention_mask=mask.long())
        tokens, pooled = (
            each.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float()
            for each in (output.last_hidden_state * mask[..., None], self.pool(output, mask))
        )
        return condition._replace(tokens=tokens, mask=mask, pooled=pooled)
