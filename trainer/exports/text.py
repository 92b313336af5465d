"""A frozen text encoder inside a program: ids in, no Python in between; and its tokenizer beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import say
from trainer.runs.export_files import TOKENIZER
from trainer.text.bert import Bert
from trainer.text.models import FAMILIES, last, mean, projected, unit_mean
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
    """(input_ids (N, L) int64, mask (N, L) bool) to the Condition that `trainer.text.pretrained` makes of the captions.

    Features are rounded to float16 as there, so that the images are the same. A caption without tokens has its first
    padding as the one token, as there.
    """

    def __init__(self, model: nn.Module, pool: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, ids: Tensor, mask: Tensor) -> Condition:
        mask = mask | (torch.arange(mask.shape[1], device=mask.device) == 0)
        output = self.model(input_ids=ids, attention_mask=mask.long())
        tokens, pooled = (
            each.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float()
            for each in (output.last_hidden_state * mask[..., None], self.pool(output, mask))
        )
        return Condition(tokens, mask, pooled)


def included(encoder: Pretrained, folder: Path) -> tuple[Encoder, dict[str, Any]]:
    """(the encoder as a module, the node of its `Tokens`); leaves FOLDER/tokenizer.json, which pads and cuts."""
    model, tokenizer = encoder.parts()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer of {encoder.name} makes no tokenizer.json: say include_text=false")
    pad = tokenizer.pad_token or tokenizer.eos_token
    backend.enable_truncation(encoder.max_tokens)
    backend.enable_padding(length=encoder.max_tokens, pad_id=tokenizer.convert_tokens_to_ids(pad), pad_token=pad)
    backend.save(str(folder / TOKENIZER))
    if not isinstance(model, Bert):
        model.set_attn_implementation("eager")  # its masks are plain arithmetic, which every format has
    node = {"_target_": f"{__name__}.Tokens", "max_tokens": encoder.max_tokens}
    return Encoder(model.cpu(), POOLS[FAMILIES[encoder.name].pool]), node


class Ids:
    """`ids[(N,) int array] -> Condition` of token ids, as data modules want their captions."""

    def __init__(self, condition: Condition):
        self.condition = condition

    def __len__(self) -> int:
        return len(self.condition.mask)

    def __getitem__(self, index: np.ndarray) -> Condition:
        return self.condition.rows(torch.from_numpy(np.asarray(index)))


class Tokens:
    """Captions to a Condition of token ids, for a program with its text encoder inside.

    path: its tokenizer.json. max_tokens: L, to which that pads and cuts.
    """

    width = 0  # ids carry no features

    def __init__(self, path: str, max_tokens: int):
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise UserError(f"{path} does not exist, and the program beside it needs it: export again")
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_file(path)

    def __call__(self, captions: Sequence[str]) -> Condition:
        encoded = self._tokenizer.encode_batch(list(captions))
        ids = torch.tensor([each.ids for each in encoded])
        mask = torch.tensor([each.attention_mask for each in encoded]) > 0
        if cut := sum(bool(each.overflowing) for each in encoded):
            say(f"text: {cut} of {len(encoded)} captions cut to text.max_tokens={self.max_tokens}")
        return Condition(ids, mask, torch.empty(len(ids), 0))

    def prepare(self, captions: Sequence[str]) -> Ids:
        return Ids(self(captions))
