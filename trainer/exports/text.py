"""A frozen text encoder inside a program: ids in, no Python in between; and its tokenizer beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.runs.export_files import TOKENIZER, TOKENS
from trainer.text.bert import Bert
from trainer.text.ids import padded
from trainer.text.inside import POOLS, Encoder
from trainer.text.models import FAMILIES
from trainer.text.pretrained import Pretrained


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
