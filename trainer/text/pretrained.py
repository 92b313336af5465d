"""Frozen text encoders through `transformers`, run once per distinct caption."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import Progress, say
from trainer.text.cache import CAPTIONS_PER_SHARD, FORMAT, TextCache, cache_root, caption_keys
from trainer.text.features import FLOAT16_MAX, Features, pad
from trainer.text.ids import IdsOnDemand, padded
from trainer.text.inside import POOLS, Encoder
from trainer.text.models import FAMILIES, load, load_tokenizer, max_positions, projected, quiet_transformers
from trainer.text.smollm2 import smollm2_folder
from trainer.text.weights import find_folder, fingerprint, minilm_folder

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32_768}  # large, so that busy cores seldom wait for one another
TOGETHER = {"cpu": 8, "cuda": 64}  # captions of every batch where their features must not depend on how many are asked
FEW = 3  # of a length, which take less time one by one than together with copies
PACKAGED: dict[str, Callable[[Path], Path]] = {
    "minilm": lambda root: minilm_folder(root / "checksums"),
    "smollm2": smollm2_folder,
}


@dataclass(eq=False)
class Loaded:
    """A model with its tokenizer."""

    model: Any
    tokenizer: Any


TURN = Lock()  # tokenizers are set to cut or not to cut: by one thread at a time
IN_USE: WeakValueDictionary[tuple[str, str], Loaded] = WeakValueDictionary()  # by kind and checksum of their files


class Pretrained:
    """A frozen encoder by name: minilm, clip, bert, roberta, albert, gpt2, smollm2 or t5.

    width: D, must be the model's. max_tokens: L, special tokens included; longer captions are cut and counted.
    path: hub id or local folder in place of the family's default. cache_dir: see `cache_root`.
    cached: false has captions of training encoded in each step, on its device, and nothing kept: a cache takes some 10
    KB a caption (MiniLM, 12 tokens), which millions of captions may not have.
    The model is loaded on first need, onto the GPU if there is one, and never when all captions are cached. A process
    has it once for all that read by the same files; its weights are mapped from disk, and processes share them.
    Features are rounded to float16 with and without the cache, so both give the same numbers.
    UserError: unknown name, model out of reach or of another kind, wrong width, too many tokens, unusable cache.
    """

    def __init__(
        self,
        name: str,
        width: int,
        max_tokens: int,
        path: str | None = None,
        cache_dir: str | None = None,
        cached: bool = True,
    ):
        if name not in FAMILIES:
            nearest = difflib.get_close_matches(name, FAMILIES, 1, cutoff=0)
            raise UserError(f"text.encoder.name={name}: expected one of {', '.join(FAMILIES)}; nearest: {nearest[0]}")
        if max_tokens < 3:
            raise UserError(f"text.max_tokens={max_tokens}: expected at least 3, one word between two special tokens")
        self.name, self.width, self.max_tokens, self.path, self.cached = name, width, max_tokens, path, cached
        self.root = cache_root(cache_dir)
        self._pool = FAMILIES[name].pool
        self._folder: Path | None = None
        self._cache: TextCache | None = None
        self._identity = ""
        self._loaded: Loaded | None = None
        self._inside: Encoder | None = None
        self._alone: dict[tuple[int, int], bool] = {}  # length, threads -> whether one caption rounds as many do

    def prepare(self, captions: Sequence[str]) -> Features | IdsOnDemand:
        """`features[(N,) int array] -> Condition` of n captions. What the cache lacks is encoded and added to it.

        Without a cache a Condition of token ids, which `on_device` reads.
        """
        if not self.cached:
            tokenizer = padded(load_tokenizer(self.name, self.folder), self.max_tokens, self.name)
            return IdsOnDemand(tokenizer, captions)
        keys = caption_keys(captions)
        self._cache = self._open_cache()
        if (self._cache.locate(keys)[0] < 0).any():
            with self._cache.one_writer():
                self._cache = self._open_cache()  # another process may have written while we waited
                self._extend(self._cache, captions, keys)
            self._cache = self._open_cache()
        located = self._cache.locate(keys)
        if (located[0] < 0).any():
            raise UserError(
                f"text cache {self._cache.folder} lost what it was given: set text.encoder.cache_dir=/another/folder"
            )
        return Features(self._cache.shards, located, self.max_tokens, self.width)

    def __call__(self, captions: Sequence[str]) -> Condition:
        """Condition of any captions: cached ones are read, others are encoded together. Writes nothing.

        A caption's features are the same, bit for bit, in any company: batches have one size and are filled up.
        """
        self._cache = self._cache or self._open_cache()
        distinct = list(dict.fromkeys(captions))
        located = self._cache.locate(caption_keys(distinct))
        cached, missing = np.flatnonzero(located[0] >= 0), np.flatnonzero(located[0] < 0)
        features = Features(self._cache.shards, located, self.max_tokens, self.width)
        rows = dict(zip((distinct[i] for i in cached), features.rows(cached), strict=True))
        if len(missing):
            for which, encoded in self._encode(self._tokenize(distinct, missing), full=True):
                rows.update(zip((distinct[i] for i in missing[which]), encoded, strict=True))
        return pad([rows[caption] for caption in captions], self.max_tokens, self.width).float()

    def on_device(self, condition: Condition) -> Condition:
        """Features of a batch as it is loaded, on the device where it is."""
        if self.cached:
            return condition
        if self._inside is None:
            self._identity = self._identity or fingerprint(self.folder, self.root / "checksums")
            self._inside = Encoder(self._ready().model, POOLS[self._pool]).to(condition.mask.device)
        with torch.no_grad():
            return self._inside(condition)

    def parts(self) -> tuple[Any, Any]:
        """(model, tokenizer) of their own, to be changed by who asks for them."""
        return load(self.name, self.folder)

    def _extend(self, cache: TextCache, captions: Sequence[str], keys: np.ndarray) -> None:
        distinct, first = np.unique(keys, return_index=True)
        missing = np.sort(first[cache.locate(distinct)[0] < 0])
        progress = Progress("text: encoded", "captions", len(missing))
        for begin in range(0, len(missing), CAPTIONS_PER_SHARD):
            part = missing[begin : begin + CAPTIONS_PER_SHARD]
            ids = self._tokenize(captions, part)
            cache.add(self._batches(ids, keys[part], progress, begin), sum(map(len, ids)) + len(ids), self.width)
        self._loaded = None  # give the memory back: training reads features only

    def _batches(
        self, ids: list[list[int]], keys: np.ndarray, progress: Callable[[int], None], done: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for which, features in self._encode(ids):
            yield keys[which], features
            done += len(which)
            progress(done)

    def _open_cache(self) -> TextCache:
        self._identity = fingerprint(self.folder, self.root / "checksums")
        cache = TextCache(self.root / f"{self.name}-{self.max_tokens}-{self._identity[:16]}-v{FORMAT}")
        self._check_width(self.width if cache.width is None else cache.width)
        return cache

    @property
    def folder(self) -> Path:
        """Of its model and tokenizer."""
        if self._folder is None:
            path = self.path or FAMILIES[self.name].hub_id
            self._folder = find_folder(path) if path else PACKAGED[self.name](self.root)
        return self._folder

    def _check_width(self, actual: int) -> None:
        if actual != self.width:
            what = self.path or self.name
            raise UserError(f"text.width={self.width}, but {what} has width {actual}: set text.width={actual}")

    def _ready(self) -> Loaded:
        """Of this encoder, loaded if need be."""
        if self._loaded is None:
            known = IN_USE.get((self.name, self._identity))
            loaded = known or Loaded(*self.parts())
            config, what = loaded.model.config, self.path or self.name
            self._check_width(config.hidden_size)
            if self._pool is projected and config.projection_dim != self.width:
                raise UserError(
                    f"{what} projects {self.width} channels to {config.projection_dim}: choose a CLIP with both equal"
                )
            limit, asked = max_positions(config), self.max_tokens
            if limit and asked > limit:
                raise UserError(f"text.max_tokens={asked}, but {what} reads {limit}: set text.max_tokens={limit}")
            loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
            self._loaded = IN_USE[self.name, self._identity] = loaded
        return self._loaded

    def _tokenize(self, captions: Sequence[str], which: np.ndarray) -> list[list[int]]:
        """1 to max_tokens ids of each caption in `which`, special tokens included."""
        loaded, texts = self._ready(), [captions[i] for i in which]
        with TURN, quiet_transformers():
            ids = loaded.tokenizer(texts)["input_ids"]
            longest = max(map(len, ids))
            long = [i for i, each in enumerate(ids) if len(each) > self.max_tokens]
            if long:
                cut = loaded.tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_tokens)
                for i, each in zip(long, cut["input_ids"], strict=True):
                    ids[i] = each
                cuts = f"text: {len(long)} of {len(ids)} captions cut to text.max_tokens={self.max_tokens}"
                say(f"{cuts}, longest: {longest}")
        return [each or [loaded.tokenizer.eos_token_id] for each in ids]  # GPT-2 makes nothing of an empty caption

    @torch.inference_mode()
    def _encode(self, ids: list[list[int]], full: bool = False) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields n indices into ids with their features (n, 1 + length, D) float16: the pooled vector, then the tokens.

        Captions of one length go together: without padding no caption's features depend on its neighbours, and none of
        the time goes into pads. full: with the bits that a caption has in any company: batches have one size, filled up
        with copies, or one caption each where a few are left and that rounds the same.
        """
        device = next(self._ready().model.parameters()).device
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for length, group in itertools.groupby(by_length, key=lambda i: len(ids[i])):
            same = list(group)
            size = TOGETHER[device.type] if full else max(1, TOKENS_PER_BATCH[device.type] // length)
            while same:
                if full and len(same) <= FEW and self._same_alone(ids[same[0]], size):
                    size = 1
                which, same = same[:size], same[size:]
                copies = which[:1] * (size - len(which)) if full else []
                features = self._features([ids[i] for i in which + copies])[: len(which)]
                yield which, features.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu().numpy()

    def _features(self, ids: list[list[int]]) -> Tensor:
        """(n, 1 + length, D) of n captions of one length."""
        model = self._ready().model
        output = model(input_ids=torch.tensor(ids, device=next(model.parameters()).device))
        return torch.cat([self._pool(output)[:, None], output.last_hidden_state], 1)

    def _same_alone(self, caption: list[int], size: int) -> bool:
        """Whether a caption alone has the bits it has among `size`: tried once for a length and a number of threads."""
        key = len(caption), torch.get_num_threads()
        if key not in self._alone:
            self._alone[key] = torch.equal(self._features([caption])[0], self._features([caption] * size)[0])
        return self._alone[key]
