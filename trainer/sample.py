"""Pictures of prompts: python -m trainer.sample checkpoint=RUN 'prompts=[a red apple, a blue car]' seeds=0-7"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.process.progress import say
from trainer.process.start import quickly
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.prompts import parse_prompts, parse_seeds, slug

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.sampling.files import Origin
    from trainer.sampling.pipeline import Pipeline

GRID_IMAGES = 256  # of more images the first ones are in the grid
NAMED_IMAGES = 32  # more files are not printed one by one


@dataclass
class Sampling:
    """Keys of conf/sample.yaml, which explains them."""

    checkpoint: str = MISSING
    prompts: Any = MISSING
    prompts_file: str | None = None
    source: str | None = None
    mask: str | None = None
    seeds: Any = MISSING
    compose: str | None = None
    negative: str | None = None
    negative_scale: float | None = None
    guidance: float | None = None
    source_guidance: float | None = None
    truncation: float | None = None
    resolution: Any = None
    precision: str | None = None
    enrich: str | None = None
    enrich_examples: str | None = None
    ema: float | None = None
    interpolate: Any = None
    steps: int = 8
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
    if cfg.mask and not cfg.source:
        raise UserError(f"mask={cfg.mask}: of a picture, and none is given: source=photo.png")
    if cfg.source and (cfg.interpolate or cfg.prompts_file == "-"):
        raise UserError(f"source={cfg.source}: with prompts alone; leave out interpolate, and prompts_file=-")
    if cfg.mode == "latency" and cfg.batch_size not in (None, 1):
        raise UserError(f"batch_size={cfg.batch_size}: mode=latency draws each image alone; leave one of them out")
    conditioning = Conditioning(**{field.name: cfg[field.name] for field in fields(Conditioning)})
    if cfg.interpolate and (cfg.images_per_file is not None or cfg.prompts or cfg.prompts_file):
        raise UserError(f"interpolate={cfg.interpolate}: its captions take the place of prompts; leave one of them out")
    if cfg.ema is not None:
        from trainer.runs.posthoc import averaged

        cfg.checkpoint = str(averaged(cfg.checkpoint, cfg.ema))
    if cfg.images_per_file is not None:
        from trainer.sampling.bulk import sample_many

        sample_many(cfg, None if cfg.seeds == "line" else parse_seeds(cfg.seeds), conditioning)
        return
    if cfg.launch or cfg.processes or cfg.seeds == "line":
        raise UserError("launch, processes and seeds=line draw into tar files: say images_per_file=1000, too")
    streamed = cfg.prompts_file == "-"
    wordless = not cfg.prompts and not cfg.prompts_file  # as an unconditional model may be drawn
    ends = parse_prompts(cfg.interpolate, None, "interpolate") if cfg.interpolate else []
    prompts = [] if streamed or wordless else parse_prompts(cfg.prompts, cfg.prompts_file)
    seeds = parse_seeds(cfg.seeds)

    import torch  # here, because these take seconds: a mistyped seed is told at once

    from trainer.runs import run_folder
    from trainer.sampling.files import free_name, make_folder, refuse_others, save
    from trainer.sampling.grids import grid
    from trainer.sampling.pipeline import load, picture
    from trainer.sampling.sampler import NO_SOURCE

    alone = cfg.mode == "latency" or (streamed and cfg.mode is None and cfg.batch_size is None)
    size = 1 if alone else cfg.batch_size
    pipe = load(cfg.checkpoint, cfg.device, size, fixed=alone, compiled=cfg.compile, draws_only=True)
    say_which(pipe.path, Path(cfg.checkpoint))
    said = conditioning.settings()
    if pipe.sampler.needs_source and cfg.source is None:
        raise UserError(NO_SOURCE)
    if said:
        pipe = pipe.conditioned(**asdict(conditioning))  # before anything is written: it may not apply
    if wordless and not ends:
        without = cfg.source or getattr(pipe.text, "wordless", False)
        prompts = [""] if without else parse_prompts(cfg.prompts, None)
    if cfg.enrich and not streamed:
        given = ends or prompts
        for prompt, text in list(zip(given, conditioning.enriched(given), strict=True))[:NAMED_IMAGES]:
            say(f"{prompt} -> {text}")
    name = "_".join([pipe.path.stem, *(slug(f"{key} {value}") for key, value in said.items())])
    folder = Path(cfg.out or run_folder.of(pipe.path) / "samples" / name).expanduser()
    origin = {
        "Software": "trainer",
        "experiment": str(pipe.config.get("name")),
        "checkpoint": f"{run_folder.of(pipe.path.resolve()).name}/{pipe.path.name}",  # no paths: pictures travel
        "kimg": f"{pipe.objective.images_seen / 1000:.3f}",
        "step": str(pipe.step),
    } | said
    if streamed:
        stream(pipe, seeds, folder, origin)
        return
    if ends:
        from trainer.sampling.interpolation import write

        write(pipe, ends, seeds, cfg.steps, folder, origin)
        return
    if cfg.source:
        from trainer.sampling.redrawing import write as redraw

        redraw(pipe, cfg.source, cfg.mask, prompts, seeds, folder, origin)
        return
    pairs = list(itertools.product(prompts, seeds))
    files = [folder / f"{slug(prompt) or 'image'}_seed{seed:04d}.png" for prompt, seed in pairs]
    refuse_others(files, origin)
    make_folder(folder)

    pipe.sampler.conditions(prompts)  # before the clock starts: the first one loads the text encoder
    if cfg.mode == "throughput" and cfg.batch_size is None and not pipe.sampler.fixed:
        from trainer.sampling.bulk import fastest

        pipe.sampler.batch_size = fastest(pipe.sampler, prompts, len(pairs))
    shown: list[Tensor] = []
    began = time.monotonic()
    for (prompt, seed), file, pixels in zip(pairs, files, draw(pipe, pairs), strict=True):
        save(picture(pixels), file, origin | conditioning.origin(prompt) | {"seed": str(seed)})
        if len(pairs) <= NAMED_IMAGES:
            print(file)
        if len(shown) < GRID_IMAGES:
            shown.append(pixels)
    seconds = time.monotonic() - began

    all_of_it = origin | {"prompts": json.dumps(prompts, ensure_ascii=False), "seeds": json.dumps(seeds)}
    file = free_name(folder, all_of_it)
    overview = grid(torch.stack(shown), [prompt for prompt, _ in pairs[: len(shown)]], min(len(seeds), 16))
    save(overview, file, all_of_it)
    count = f"{len(pairs)} image{'s' * (len(pairs) > 1)}"
    rate = f", {len(pairs) / seconds:.1f} images/s" if len(pairs) >= NAMED_IMAGES else ""  # of few, it is their start's
    where = "" if len(pairs) <= NAMED_IMAGES else f" in {folder}"
    print(f"{file}\n{count}{where}{rate} on {pipe.sampler.device}")


def stream(pipe: Pipeline, seeds: list[int], folder: Path, origin: Origin) -> None:
    """A PNG for each line of stdin and each seed, written and its name printed as soon as it is there."""
    from trainer.sampling.files import make_folder, save

    make_folder(folder)
    lines = (line.strip() for line in sys.stdin)
    first, second = itertools.tee((prompt, seed) for prompt in lines if prompt for seed in seeds)
    for prompt, seed, image in pipe.stream((p for p, _ in first), (s for _, s in second)):
        file = folder / f"{slug(prompt)}_seed{seed:04d}.png"
        save(image, file, origin | pipe.sampler.conditioning.origin(prompt) | {"seed": str(seed)})
        print(file, flush=True)


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


def main() -> None:
    entry(sample, "sample", Sampling)


if __name__ == "__main__":
    with quickly():
        main()
