"""Captions to the ids of a published tokenizer: for text encoders that stand inside what draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import say
from trainer.text.ids import condition_of, padded
from trainer.text.models import load_tokenizer
from trainer.text.pretrained import Pretrained


class Ids:
    """`ids[(N,) int array] -> Condition` of token ids, as data modules want their captions."""

    def __init__(self, condition: Condition):
        self.condition = condition

    def __len__(self) -> int:
        return len(self.condition.mask)

    def __getitem__(self, index: Any) -> Condition:
        return self.condition.rows(torch.from_numpy(np.asarray(index)))


class Tokens:
    """Captions to a Condition of token ids (N, L), padded and cut to L.

    path: a tokenizer.json. max_tokens: L. UserError: there is no such file.
    """

    width = 0  # ids carry no features

    def __init__(self, path: str, max_tokens: int):
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist, and the program beside it needs it: export again")
        self.max_tokens = max_tokens
        self._tokenizer = read_tokenizer(Path(path).read_bytes())

    def __call__(self, captions: Sequence[str]) -> Condition:
        encode, alone = self._tokenizer.encode, len(captions) == 1  # threads would only hold it up
        encoded = [encode(captions[0])] if alone else self._tokenizer.encode_batch(list(captions))
        if cut := sum(bool(each.overflowing) for each in encoded):
            say(f"text: {cut} of {len(encoded)} captions cut to text.max_tokens={self.max_tokens}")
        return condition_of(encoded)

    def prepare(self, captions: Sequence[str]) -> Ids:
        return Ids(self(captions))

    @cached_property
    def end(self) -> int:
        """The piece that ends a caption. UserError for a tokenizer that has none."""
        encoded = self._tokenizer.encode("a")
        last = int(encoded.ids[sum(encoded.attention_mask) - 1])
        if self._tokenizer.decode([last]):
            raise UserError("this tokenizer ends no caption, and a captioner must know where to stop: text=pieces")
        return last

    def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The captions of rows of ids, each up to its end."""
        whole = [[*row[: row.index(self.end)]] if self.end in row else [*row] for row in map(list, ids)]
        return [str(text).strip() for text in self._tokenizer.decode_batch(whole)]


@lru_cache(maxsize=4)
def read_tokenizer(content: bytes) -> Any:
    """The tokenizer of a tokenizer.json, once in a process for all models that read by the same; not to be changed."""
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(content)


class Pieces(Tokens):
    """The same by the tokenizer of a frozen encoder, for a network that learns from it (`trainer.objectives`).

    name, width, max_tokens, path, cache_dir: as of the `Pretrained` whose captions these are, which is `teacher`; its
    model is not loaded for ids. UserError: as of that.
    """

    def __init__(self, name: str, width: int, max_tokens: int, path: str | None = None, cache_dir: str | None = None):
        self.teacher = Pretrained(name, width, max_tokens, path, cache_dir)
        self.max_tokens = max_tokens
        self._tokenizer = padded(load_tokenizer(name, self.teacher.folder), max_tokens, name)

    @property
    def vocabulary(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def words(self) -> list[str]:
        """The pieces that are words in letters by themselves, in the order of their ids."""
        ordered = sorted(self._tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        return [piece for piece, _ in ordered if piece.isalpha() and piece.islower() and len(piece) > 1]

    def save(self, path: Path) -> None:
        """Its tokenizer.json, which `Tokens` reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(path))
