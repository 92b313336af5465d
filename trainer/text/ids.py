"""Captions to the ids of a published tokenizer, padded and cut to one length, each when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer.batch import Condition
from trainer.errors import UserError


def padded(tokenizer: Any, max_tokens: int, name: str) -> Any:
    """The tokenizer of the library `tokenizers` in one of `transformers`, set to pad and cut to `max_tokens`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer of {name} makes no tokenizer.json, which captions need that are read in a step")
    pad = tokenizer.pad_token or tokenizer.eos_token
    backend.enable_truncation(max_tokens)
    backend.enable_padding(length=max_tokens, pad_id=tokenizer.convert_tokens_to_ids(pad), pad_token=pad)
    return backend


def condition_of(encoded: Sequence[Any]) -> Condition:
    """Of what a tokenizer that pads has made of N captions: ids (N, L), no features."""
    mask = np.array([each.attention_mask for each in encoded], bool)
    mask[:, 0] = True  # of a caption without tokens the first padding, as a frozen encoder has it
    ids = np.array([each.ids for each in encoded], np.int64)
    return Condition(torch.from_numpy(ids), torch.from_numpy(mask), torch.empty(len(encoded), 0))


class IdsOnDemand:
    """`ids[(N,) int array] -> Condition` of token ids (N, L), by who asks: a worker of the loader, of a batch.

    tokenizer: as `padded` has it.
    """

    def __init__(self, tokenizer: Any, captions: Sequence[str]):
        self.tokenizer, self.captions = tokenizer, captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: Any) -> Condition:
        # one by one: the threads of encode_batch do not come along into a fork
        return condition_of([self.tokenizer.encode(self.captions[i]) for i in np.asarray(index).tolist()])
