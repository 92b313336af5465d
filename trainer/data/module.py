"""The data of a run: a source, its cache, the train / held-out split and the loader."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from trainer.batch import Batch
from trainer.data.augment import Augment
from trainer.data.buckets import made, parsed
from trainer.data.cache import cache_folder
from trainer.data.encoded import encoded
from trainer.data.index import index_folder, open_reader
from trainer.data.loader import Loader
from trainer.data.reader import Reader
from trainer.data.rows import Rows
from trainer.data.sampler import BatchStarts
from trainer.data.source import Source, digest
from trainer.data.split import Split, kept_split, mixed
from trainer.data.stream import Stream
from trainer.data.texts import Texts
from trainer.errors import UserError
from trainer.process import caches
from trainer.process.progress import say
from trainer.size import Resolution, Size

_MANY = 1 << 20


def default_cache_dir() -> Path:
    return caches.root() / "data"


class DataModule(LightningDataModule):
    """Training batches that depend on (seed, position) alone, and the held-out images.

    source: lists the captioned images. text: turns captions into features, once per distinct caption.
    batch_size: over all ranks. heldout: fraction of images kept out of training, [0, 1), whole concepts each; a source
    may draw its own. heldout_images: at most so many of them. seed: of order, captions and augmentation. split_seed: of
    what is held out, so that runs of several seeds are compared on the same images; None, of older runs, takes `seed`
    and a fraction of the concepts.
    paired: of translations, whether an image comes with its own source in training; None: where the data have pairs.
    decoded: whether pictures are decoded once into a cache; false: in each batch, from where they lie, by the workers.
    block_size: images in a row that are read together. buckets: sizes that batches of training have, each of pictures
    whose proportions are nearest to it (`trainer.data.buckets`); what is held out has `resolution`.
    cache_dir: default $TRAINER_CACHE/data or ~/.cache/trainer/data.
    """

    def __init__(
        self,
        source: Source,
        text: Any,
        resolution: Resolution,
        batch_size: int,
        heldout: float,
        augment: Augment,
        seed: int,
        num_workers: int = 0,
        cache_dir: str | None = None,
        split_seed: int | None = None,
        paired: bool | None = None,
        decoded: bool = True,
        heldout_images: int | None = None,
        block_size: int = 1,
        buckets: Sequence[Resolution] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= heldout < 1:
            raise UserError(f"data.heldout={heldout}: expected a fraction of images in [0, 1)")
        if heldout_images is not None and heldout_images < 1:
            raise UserError(f"data.heldout_images={heldout_images}: expected at least 1, or null for no bound")
        if min(Size.of(resolution)) < 1 or batch_size < 1:
            raise UserError(f"data.resolution={resolution}, data.batch_size={batch_size}: expected at least 1")
        augment.check(decoded)
        self.buckets: Any = None if buckets is None else parsed(buckets, decoded)
        self.source, self.text, self.augment = source, text, augment
        self.resolution, self.batch_size, self.num_workers, self.seed = resolution, batch_size, num_workers, seed
        self.fraction, self.by_images, self.most = heldout, split_seed is not None, heldout_images
        self.split_seed = seed if split_seed is None else split_seed
        self.cache_dir = cache_dir or default_cache_dir()
        pairs = getattr(source, "pairs", True)
        if paired and not pairs:
            raise UserError(f"data.paired=true: {type(source).__name__} has no pairs; expected false, as of cyclegan")
        self.paired, self.decoded, self.block_size = pairs if paired is None else paired, decoded, block_size
        self.start = 0
        self._trained_on: dict[tuple[str, ...], set[str]] = {}
        self._prepared = False

    def folder(self) -> Path:
        """Where its cache or index is, or will be."""
        if self.decoded:
            return cache_folder(self.source, self.resolution, self.cache_dir)
        return index_folder(self.source, self.cache_dir)

    def prepare(self) -> None:
        """Decode the images and encode the captions, or find both done; any number of calls and processes."""
        if self._prepared:
            return
        cache = open_reader(self.source, self.resolution, self.cache_dir, self.decoded)
        self.features = self.text.prepare(cache.captions)
        grouped = getattr(self.text, "grouped", True)
        train, heldout = kept_split(cache, self.fraction, self.split_seed, grouped, self.by_images, self.most)
        pairs = getattr(self.source, "pairs", True)
        self.train, self.heldout = Split(cache, train, pairs), Split(cache, heldout, pairs)
        self._prepared = True
        if self.source.attribution:
            rank_zero_only(print)(self.source.attribution, file=sys.stderr)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what the data is, wherever it lies: captions, split, and 512 images, evenly spread."""
        self.prepare()
        cache = self.train.cache
        chosen = np.linspace(0, len(cache.images) - 1, min(512, len(cache.images)), dtype=np.int64)
        arrays: tuple[np.ndarray, ...] = (cache.pictures.caption_ids, cache.concepts)
        arrays += (self.train.indices, self.heldout.indices, cache.images[chosen])
        if cache.sources is not None:
            arrays += (cache.sources.caption_ids, cache.sources.images[chosen])
        said = cache.captions
        if isinstance(said, Texts):  # the same as of a list, up to where that takes seconds on each start
            said = said.sha256() if len(said) > _MANY else [*said]
        hashes = (hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for each in arrays)
        return digest(said, cache.images.shape, *hashes)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint keeps of its data, so that a resumed run knows them again wherever they lie."""
        counts = {"images": len(self.train) + len(self.heldout), "held-out images": len(self.heldout)}
        return {"fingerprint": self.fingerprint, **counts, "captions": len(self.train.cache.captions)}

    def changed(self, since: dict[str, Any]) -> str | None:
        """What differs from an `identity`, None if nothing does."""
        now = self.identity
        if now["fingerprint"] == since["fingerprint"]:
            return None
        counts = [key for key in now if key != "fingerprint" and now[key] != since.get(key)]
        return ", ".join(f"{since.get(key)} -> {now[key]} {key}" for key in counts) or "other pixels, captions or order"

    def state_dict(self) -> dict[str, Any]:
        """`identity`, on the first rank. With each checkpoint, too, it is noted that what is read is in use."""
        caches.used(self.train.cache.folder)
        return self.identity if self.trainer is None or self.trainer.is_global_zero else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called on all ranks with what a checkpoint has. UserError if the data are not those of the run."""
        found = self.changed(state_dict) if self.trainer is None or self.trainer.is_global_zero else None
        found = self.trainer.strategy.broadcast(found) if self.trainer else found
        if found:
            raise UserError(
                f"the data have changed since the checkpoint: {found}; resume needs the same, in whatever place: "
                "put them back, or begin a new run from its weights by init=RUN"
            )

    @property
    def skipped(self) -> Path:
        """A file with a line for each corrupt image of the source that is left out."""
        return self.train.cache.folder / "skipped.txt"

    def prepare_data(self) -> None:
        self.prepare()  # Lightning calls this in one process a node, setup then in all
        _ = self._in_buckets

    def setup(self, stage: str) -> None:
        objective: Any = getattr(self.trainer, "lightning_module", None)
        if self.buckets and objective:
            objective.require_sizes(self.buckets)
        self.prepare()
        encoder, names = getattr(objective, "config", {}).get("text", {}).get("encoder", {}), self.train.cache.captions
        if "classes" in encoder and len(names) <= encoder["width"]:
            encoder["classes"] = sorted(set(names))  # of the data: checkpoints and exports of this run know no other

    def start_at(self, images: int) -> None:
        """Let the next loader begin after this many images of the stream, as a resumed run must."""
        self.start = images

    def train_dataloader(self) -> DataLoader[Batch]:
        self.prepare()
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size, rest = divmod(self.batch_size, world_size)
        if rest:
            raise UserError(f"data.batch_size={self.batch_size}: expected a multiple of the {world_size} ranks")
        stream = Stream(
            self.train.cache, self.train.indices, self.features, self.augment, self.seed, rank * size, size,
            self._encoded(self.train.cache), self.paired, self._weights(), self.block_size, self._in_buckets,
        )  # fmt: skip
        return Loader(
            stream,
            batch_size=None,  # an item is a whole batch already
            sampler=BatchStarts(self.start, self.batch_size),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            prefetch_factor=4 if self.num_workers else None,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return self.arrived(super().transfer_batch_to_device(batch, device, dataloader_idx))

    def arrived(self, batch: Batch) -> Batch:
        """On its device: augmented, and its captions read where nothing is kept of them."""
        for each in filter(None, (batch, batch.other) if hasattr(self.text, "on_device") else ()):
            each.condition = self.text.on_device(each.condition)
        return self.augment.of(batch, self.seed)

    @cached_property
    def _in_buckets(self) -> Any:
        return self.buckets and made(self.train.cache, self.train.indices, self.buckets, self.batch_size)

    def _weights(self) -> np.ndarray | None:
        """How often each training image is seen beside others: those that a machine captioned as the source says."""
        machine: float = getattr(self.source, "machine_captions", 1)
        if machine in (0, 1):
            return None
        return np.array([machine if each.get("machine") is True else 1.0 for each in self.train.attributes])

    def _encoded(self, cache: Reader) -> Rows | None:
        """The codes or latents that the objective learns, where they are those of the images as the cache has them."""
        encoding = getattr(getattr(self.trainer, "lightning_module", None), "encoding", None)
        if encoding is not None and not self.augment.idle:
            line = f"data.augment changes the images: their {encoding.kind} are made anew in each step, not once"
            rank_zero_only(say)(line)
            return None
        return encoding and encoded(cache, encoding)

    def fixed_captions(self, n: int) -> list[str]:
        """At most n distinct captions for sample grids, held-out and training ones in turn; the same for every run.

        Classes come again and again, to n.
        """
        self.prepare()
        distinct = mixed(self.train, self.heldout, n)
        if getattr(self.text, "grouped", True):
            return distinct
        return (distinct * n)[:n]  # of a class, or of none, many pictures are to be seen

    def trained_on(self, captions: tuple[str, ...]) -> set[str]:
        """Those that are the first caption of a training image; of some captions it is looked up once."""
        if captions not in self._trained_on:
            self._trained_on[captions] = set(captions).intersection(self.train.captions)
        return self._trained_on[captions]
