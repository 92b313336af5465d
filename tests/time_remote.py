"""What reading a set from a store costs, by blocks of pictures; not run by pytest.

    python tests/time_data.py make FOLDER pictures=6000 captions=1 pixels=256 per_tar=1000
    PYTHONPATH=. python tests/time_remote.py FOLDER cache=CACHE pixels=256 latency=0.03 blocks=1,4,8,16

A server of its own process, on this machine, answers each request after `latency` seconds. Requests and bytes are what
it has counted, CPU seconds those of the loader's process and its worker.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from tests.data.store import Store
from tests.time_data import of_worker


class Counting(Store):
    def __init__(self, root: Path, latency: float, counts: Any) -> None:
        self.latency, self.counts = latency, counts
        super().__init__(root)

    def note(self, method: str, path: str, size: int) -> None:
        with self.counts.get_lock():
            self.counts[0] += 1
            self.counts[1] += size
        time.sleep(self.latency)


def serve(root: Path, latency: float, counts: Any, told: Any) -> None:
    told.put(Counting(root, latency, counts).url)
    time.sleep(3600)


def measure(source: Any, cache: str, pixels: int, block: int, images: int, counts: Any) -> None:
    from trainer.data.augment import Augment
    from trainer.data.module import DataModule
    from trainer.text.scratch import HashTokenizer

    options = {"decoded": False, "num_workers": 1, "cache_dir": cache, "split_seed": 0, "block_size": block}
    module = DataModule(source, HashTokenizer(vocabulary=8192, max_tokens=24), pixels, 64, 0.1, Augment(), 0, **options)
    batches = iter(module.train_dataloader())
    next(batches)
    time.sleep(2)  # what is loaded ahead is there
    before, spent, began = counts[:], of_worker(), time.monotonic()
    for _ in itertools.islice(batches, images // 64):
        pass
    wall, spent = time.monotonic() - began, of_worker() - spent
    time.sleep(2)  # the same again
    requests, size = (now - then for now, then in zip(counts[:], before, strict=True))
    row = f"{requests / images:.3f} requests and {size / images / 1024:.1f} KiB an image"
    print(f"block_size={block}: {row}, {1e6 * spent / images:.0f} us CPU, {images / wall:.0f} images/s", flush=True)


def main() -> None:
    from trainer.data.webdataset import WebDataset

    folder, *words = sys.argv[1:]
    given = dict(word.split("=") for word in words)
    context = multiprocessing.get_context("fork")
    counts, told = context.Array("q", 2), context.SimpleQueue()
    options = (Path(folder), float(given.get("latency", 0.03)), counts, told)
    server = context.Process(target=serve, args=options, daemon=True)
    server.start()
    source = WebDataset(f"{told.get()}/")
    for block in map(int, given.get("blocks", "1,4,8,16").split(",")):
        measure(source, given["cache"], int(given.get("pixels", 256)), block, int(given.get("images", 1280)), counts)
    server.terminate()


if __name__ == "__main__":
    main()
