"""A frozen text encoder inside a program: ids in, no Python in between; and its tokenizer beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.runs.export_files import TOKENIZER, TOKENS
from trainer.text.bert import Bert
from trainer.text.models import FAMILIES, last, mean, projected, unit_mean
from trainer.text.pieces import padded
from trainer.text.pretrained import FLOAT16_MAX, Pretrained


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


def frozen(encoder: Pretrained) -> tuple[Encoder, Any]:
    """(the encoder as a module of its own, its tokenizer)."""
    model, tokenizer = encoder.parts()
    if not isinstance(model, Bert):
        model.set_attn_implementation("eager")  # its masks are plain arithmetic, which every format has
    return Encoder(model.cpu(), POOLS[FAMILIES[encoder.name].pool]), tokenizer


def included(encoder: Pretrained, folder: Path) -> tuple[Encoder, dict[str, Any]]:
    """(the encoder as a module, the node of its `Tokens`); leaves FOLDER/tokenizer.json, which pads and cuts."""
    module, tokenizer = frozen(encoder)
    padded(tokenizer, encoder.max_tokens, encoder.name).save(str(folder / TOKENIZER))
    return module, {"_target_": TOKENS, "max_tokens": encoder.max_tokens}
