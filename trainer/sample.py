"""Pictures of prompts: python -m trainer.sample checkpoint=RUN 'prompts=[a red apple, a blue car]' seeds=0-7"""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, ListConfig

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.process.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from trainer.sampling.pipeline import Pipeline

Origin = dict[str, str]  # PNG metadata
GRID_IMAGES = 256  # of more images the first ones are in the grid
NAMED_IMAGES = 32  # more files are not printed one by one
MOST_SEEDS = 10_000_000


@dataclass
class Sampling:
    """Keys of conf/sample.yaml, which explains them."""

    checkpoint: str = MISSING
    prompts: Any = MISSING
    prompts_file: str | None = None
    seeds: Any = MISSING
    out: str | None = None
    batch_size: int | None = None
    device: str | None = None
    allow: Any = None
    mode: str | None = None
    compile: bool = False
    images_per_file: int | None = None
    processes: int | None = None
    launch: Any = None
    nodes: int = 1
    gpus_per_node: Any = "auto"


def sample(cfg: DictConfig) -> None:
    """Writes a PNG for each prompt and seed and a grid of them, all with their origin in the metadata."""
    if cfg.mode not in (None, "latency", "throughput"):
        raise UserError(f"mode={cfg.mode}: expected latency, throughput or null")
    if cfg.mode == "latency" and cfg.batch_size not in (None, 1):
        raise UserError(f"batch_size={cfg.batch_size}: mode=latency draws each image alone; leave one of them out")
    if cfg.images_per_file is not None:
        from trainer.sampling.bulk import sample_many

        sample_many(cfg, None if cfg.seeds == "line" else parse_seeds(cfg.seeds))
        return
    if cfg.launch or cfg.processes or cfg.seeds == "line":
        raise UserError("launch, processes and seeds=line draw into tar files: say images_per_file=1000, too")
    streamed = cfg.prompts_file == "-"
    wordless = not cfg.prompts and not cfg.prompts_file  # as an unconditional model may be drawn
    prompts = [] if streamed or wordless else parse_prompts(cfg.prompts, cfg.prompts_file)
    seeds = parse_seeds(cfg.seeds)

    import torch  # here, because these take seconds: a mistyped seed is told at once

    from trainer.runs import run_folder
    from trainer.sampling.grids import grid
    from trainer.sampling.pipeline import load, picture

    alone = cfg.mode == "latency" or (streamed and cfg.mode is None and cfg.batch_size is None)
    pipe = load(cfg.checkpoint, cfg.device, 1 if alone else cfg.batch_size, fixed=alone, compiled=cfg.compile)
    say_which(pipe.path, Path(cfg.checkpoint))
    if wordless:
        prompts = [""] if getattr(pipe.text, "wordless", False) else parse_prompts(cfg.prompts, None)
    folder = Path(cfg.out or run_folder.of(pipe.path) / "samples" / pipe.path.stem).expanduser()
    origin = {
        "Software": "trainer",
        "experiment": str(pipe.config.get("name")),
        "checkpoint": f"{run_folder.of(pipe.path.resolve()).name}/{pipe.path.name}",  # no paths: pictures travel
        "kimg": f"{pipe.objective.images_seen / 1000:.3f}",
        "step": str(pipe.step),
    }
    if streamed:
        stream(pipe, seeds, folder, origin)
        return
    pairs = list(itertools.product(prompts, seeds))
    files = [folder / f"{slug(prompt) or 'image'}_seed{seed:04d}.png" for prompt, seed in pairs]
    for file in files:
        if file.exists() and not from_origin(file, origin):
            raise UserError(f"{file} is there already and not from {pipe.path}: choose another out=FOLDER")
    make(folder)

    pipe.sampler.conditions(prompts)  # before the clock starts: the first one loads the text encoder
    if cfg.mode == "throughput" and cfg.batch_size is None and not pipe.sampler.fixed:
        from trainer.sampling.bulk import fastest

        pipe.sampler.batch_size = fastest(pipe.sampler, prompts, len(pairs))
    shown: list[Tensor] = []
    began = time.monotonic()
    for (prompt, seed), file, pixels in zip(pairs, files, draw(pipe, pairs), strict=True):
        save(picture(pixels), file, origin | {"prompt": prompt, "seed": str(seed)})
        if len(pairs) <= NAMED_IMAGES:
            print(file)
        if len(shown) < GRID_IMAGES:
            shown.append(pixels)
    seconds = time.monotonic() - began

    all_of_it = origin | {"prompts": json.dumps(prompts, ensure_ascii=False), "seeds": json.dumps(seeds)}
    numbered = itertools.chain(["grid.png"], (f"grid-{i}.png" for i in itertools.count(2)))
    file = next(f for f in map(folder.joinpath, numbered) if not f.exists() or from_origin(f, all_of_it))
    overview = grid(torch.stack(shown), [prompt for prompt, _ in pairs[: len(shown)]], min(len(seeds), 16))
    save(overview, file, all_of_it)
    count = f"{len(pairs)} image{'s' * (len(pairs) > 1)}"
    rate = f", {len(pairs) / seconds:.1f} images/s" if len(pairs) >= NAMED_IMAGES else ""  # of few, it is their start's
    where = "" if len(pairs) <= NAMED_IMAGES else f" in {folder}"
    print(f"{file}\n{count}{where}{rate} on {pipe.sampler.device}")


def stream(pipe: Pipeline, seeds: list[int], folder: Path, origin: Origin) -> None:
    """A PNG for each line of stdin and each seed, written and its name printed as soon as it is there."""
    make(folder)
    lines = (line.strip() for line in sys.stdin)
    first, second = itertools.tee((prompt, seed) for prompt in lines if prompt for seed in seeds)
    for prompt, seed, image in pipe.stream((p for p, _ in first), (s for _, s in second)):
        file = folder / f"{slug(prompt)}_seed{seed:04d}.png"
        save(image, file, origin | {"prompt": prompt, "seed": str(seed)})
        print(file, flush=True)


def make(folder: Path) -> None:
    """UserError if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be made") from error


def say_which(path: Path, given: Path) -> None:
    """Where a run was given: that its newest checkpoint was taken, and where its best one is if that is another."""
    best = path.with_name("best.ckpt")
    if given.is_dir() and path != given and best.exists() and not best.samefile(path):
        say(f"drawn with the newest checkpoint, {path}; the best by what the run measured is checkpoint={best}")


def draw(pipe: Pipeline, pairs: list[tuple[str, int]]) -> Iterator[Tensor]:
    """Images (3, H, W) uint8 of pairs of prompt and seed, batch by batch; tells how far it is every 5 s."""
    began = told = time.monotonic()
    for start in range(0, len(pairs), pipe.sampler.batch_size):
        captions, seeds = zip(*pairs[start : start + pipe.sampler.batch_size], strict=True)
        yield from pipe.sampler(captions, seeds).cpu()
        done, now = start + len(seeds), time.monotonic()
        if now - told > 5:
            told = now
            print(f"{done} of {len(pairs)} images, {(now - began) / done * (len(pairs) - done):.0f} s left", flush=True)


def parse_prompts(given: Any, file: str | None) -> list[str]:
    """Distinct texts of a text or list, and of the lines of a file; UserError if there are none or one is empty."""
    prompts = (
        [str(each).strip() for each in given] if isinstance(given, (ListConfig, list)) else [str(given or "").strip()]
    )
    if file:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompts_file={file}: expected a UTF-8 text with a prompt a line ({error})") from error
        prompts = [each for each in [*prompts, *map(str.strip, lines)] if each]
    if not prompts or not all(prompts):
        raise UserError(f"prompts={given}: expected texts and none empty, as in 'prompts=[a red apple, a blue car]'")
    return list(dict.fromkeys(prompts))


def parse_seeds(given: Any) -> list[int]:
    """Distinct seeds of 3, "0-7", "0,2,5-9" or a list of such; UserError for anything else."""
    parts = given if isinstance(given, (ListConfig, list)) else str(given).split(",")
    seeds: list[int] = []
    for part in map(str, parts):
        found = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or not -(2**63) <= first <= last < 2**63:
            raise UserError(f"seeds={given}: {part} is not a seed; expected 3, 0-7 or [0,2,5-9]")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise UserError(f"seeds={given}: more than {MOST_SEEDS:,} seeds; draw them in several commands")
        seeds += range(first, last + 1)
    if not seeds:
        raise UserError(f"seeds={given}: expected at least one, as in seeds=0-7")
    return list(dict.fromkeys(seeds))


def slug(prompt: str) -> str:
    """A file name that can be read; where it says less than the prompt, a checksum keeps two prompts apart."""
    letters = re.sub(r"\W+", "-", prompt)[:60].encode()[:180]  # file systems count bytes
    name = letters.decode(errors="ignore").strip("-")
    return name if name.replace("-", " ") == prompt else f"{name}-{zlib.crc32(prompt.encode()):08x}".lstrip("-")


def save(image: Image, file: Path, origin: Origin) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in origin.items():
        info.add_text(key, value)
    image.save(file, pnginfo=info)


def from_origin(file: Path, origin: Origin) -> bool:
    """Whether a PNG's metadata says all that `origin` says."""
    from PIL import Image

    try:
        if not file.is_file():
            return False
        with Image.open(file, formats=["PNG"]) as image:
            return origin.items() <= image.info.items()
    except OSError:  # no image, or cut short
        return False


def main() -> None:
    entry(sample, "sample", Sampling)


if __name__ == "__main__":
    main()
