"""A set of any size, and what reading it costs; not run by pytest.

    python tests/time_data.py make FOLDER pictures=200000 captions=10 pixels=64 per_tar=5000
    python tests/time_data.py start FOLDER cache=CACHE          # seconds and memory from the index to the first batch
    python tests/time_data.py loaders FOLDER cache=CACHE        # CPU time an image of ours, of webdataset, of the cache
                                                            # (without=cache: then not all are decoded first)

Captions are distinct sentences. Figures are CPU seconds (user and system, of this process and its children), which a
busy machine changes little, and wall clock beside them. `loaders` needs `pip install webdataset`.
"""

from __future__ import annotations

import io
import itertools
import os
import resource
import statistics
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

WORDS = ("amber", "bright", "calm", "deep", "early", "faint", "gentle", "hollow", "iron", "jade", "keen", "narrow")
THINGS = ("apple", "boat", "castle", "door", "engine", "field", "garden", "house", "island", "jar", "kite", "lamp")


def make(folder: Path, pictures: int, captions: int, pixels: int, per_tar: int) -> None:
    """JPEGs that compress as photographs do: soft colour, edges and grain."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, pictures, per_tar):
        path = folder / f"{start // per_tar:05}.tar"
        if path.exists():
            continue
        with tarfile.open(path.with_suffix(".tmp"), "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(start, min(start + per_tar, pictures)):
                for name, content in (("jpg", picture(number, pixels)), ("txt", said(number, captions).encode())):
                    member = tarfile.TarInfo(f"{number:09}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        path.with_suffix(".tmp").rename(path)


def picture(number: int, pixels: int) -> bytes:
    rng = np.random.default_rng(number)
    soft = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((pixels, pixels), Image.Resampling.BICUBIC)
    values = np.asarray(soft).astype(np.int16)
    x, y, side = *rng.integers(0, pixels // 2, 2), pixels // 3
    values[y : y + side, x : x + side] += rng.integers(-90, 90, 3, np.int16)
    values += rng.integers(-6, 7, values.shape, np.int16)
    content = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=85)
    return content.getvalue()


def said(number: int, captions: int) -> str:
    rng = np.random.default_rng((number, 1))
    words = rng.integers(0, 12, (captions, 4))
    return "\n".join(
        f"a {WORDS[a]} {THINGS[b]} beside the {WORDS[c]} {THINGS[d]}, view {k} of {number}"
        for k, (a, b, c, d) in enumerate(words)
    )


def data(folder: Path, cache: Path, pixels: int, decoded: bool, workers: int) -> Any:
    from trainer.data.augment import Augment
    from trainer.data.module import DataModule
    from trainer.data.webdataset import WebDataset
    from trainer.text.scratch import HashTokenizer

    text = HashTokenizer(vocabulary=8192, max_tokens=24)
    source = WebDataset(str(folder))
    options = {"seed": 0, "split_seed": 0, "num_workers": workers, "cache_dir": str(cache), "decoded": decoded}
    return DataModule(source, text, pixels, 64, 0.1, Augment(), heldout_images=50_000, **options)


def start(folder: Path, cache: Path, pixels: int, decoded: bool) -> None:
    import trainer.data.module  # noqa: F401  the imports are those of every start

    before, began = memory(), (time.monotonic(), cpu())
    module = data(folder, cache, pixels, decoded, workers=0)
    steps = [("index opened, split, text", module.prepare), ("fingerprint", lambda: module.fingerprint)]
    steps += [("captions of the grids", lambda: module.fixed_captions(16))]
    steps += [("first batch", lambda: next(iter(module.train_dataloader())))]
    for name, step in steps:
        step()
        wall, spent = time.monotonic() - began[0], cpu() - began[1]
        print(f"{name:<28} {wall:7.2f} s wall, {spent:7.2f} s CPU since the start", flush=True)
    own, shared = memory()
    sizes = f"{len(module.train) + len(module.heldout):,} pictures, {len(module.train.cache.captions):,} captions"
    print(f"{sizes}: memory {own:.0f} MiB of its own and {shared:.0f} MiB mapped, {before[0]:.0f} before", flush=True)


def loaders(folder: Path, cache: Path, pixels: int, images: int, repeats: int, without: str) -> None:
    def ours(decoded: bool) -> Any:
        module = data(folder, cache, pixels, decoded, workers=1)
        return (batch.image for batch in module.train_dataloader())

    def theirs(decoder: Any) -> Any:
        import webdataset

        def crop(sample: dict[str, Any]) -> tuple[np.ndarray, str]:
            image = sample["jpg"]
            if np.asarray(image).shape[:2] != (pixels, pixels):
                image = Image.fromarray(np.asarray(image)).resize((pixels, pixels), Image.Resampling.LANCZOS)
            return np.asarray(image), sample["txt"].partition("\n")[0]

        urls = sorted(map(str, folder.glob("*.tar")))
        chain = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(1000).decode(decoder).map(crop)
        loader = webdataset.WebLoader(chain.batched(64), batch_size=None, num_workers=1)
        return (batch[0] for batch in loader)

    def turbo(key: str, content: bytes) -> Any:
        return simplejpeg.decode_jpeg(content) if key.endswith("jpg") else None

    kinds = {"index": lambda: ours(False), "webdataset": lambda: theirs("rgb8"), "cache": lambda: ours(True)}
    kinds["webdataset by simplejpeg"] = lambda: theirs(turbo)
    kinds = {kind: opened for kind, opened in kinds.items() if kind not in without.split(",")}
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, opened in kinds.items():
            batches = iter(opened())
            next(batches)  # its start is not counted
            before, began = of_worker(), time.monotonic()
            for _ in itertools.islice(batches, images // 64):
                pass
            seconds = of_worker() - before
            spent[kind].append(seconds / images)
            wall = images / (time.monotonic() - began)
            print(f"{kind:<24} {images / seconds:9.0f} images/s of a core's CPU time, {wall:9.0f} wall", flush=True)
            del batches
    medians = {kind: statistics.median(each) for kind, each in spent.items()}
    for kind, median in medians.items():
        ratio = medians["webdataset"] / median
        print(f"{kind:<24} median {1e6 * median:7.1f} us an image, {ratio:.2f} times webdataset's speed")


def cpu() -> float:
    return sum(os.times()[:4])


def of_worker() -> float:
    """CPU seconds of this process and of its living children."""
    ticks = os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    found = 0.0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        found += (int(fields[11]) + int(fields[12])) / ticks
    return found + sum(os.times()[:2])


def memory() -> tuple[float, float]:
    """MiB: its own, and of mapped files."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "Rss" in line)
    return int(status["RssAnon"].split()[0]) / 1024, int(status["RssFile"].split()[0]) / 1024


def main() -> None:
    verb, folder, *words = sys.argv[1:]
    given = dict(word.split("=") for word in words)
    cache, pixels = Path(given.get("cache", "cache")), int(given.get("pixels", 64))
    if verb == "make":
        numbers = (int(given.get(key, of)) for key, of in (("pictures", 200_000), ("captions", 10)))
        make(Path(folder), *numbers, pixels, int(given.get("per_tar", 5000)))
    elif verb == "start":
        start(Path(folder), cache, pixels, given.get("decoded") == "true")
    else:
        numbers = (int(given.get(key, of)) for key, of in (("images", 12_800), ("repeats", 5)))
        loaders(Path(folder), cache, pixels, *numbers, given.get("without", ""))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB, {cpu():.1f} s CPU", flush=True)


if __name__ == "__main__":
    main()
