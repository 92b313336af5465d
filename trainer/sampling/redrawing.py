"""Pictures made from pictures by trainer.sample: each source with each prompt and seed, and a grid of all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from trainer.errors import UserError
from trainer.process.progress import Progress, say
from trainer.sampling import sources
from trainer.sampling.files import Origin, free_name, make_folder, refuse_others, save
from trainer.sampling.grids import grid
from trainer.sampling.prompts import slug
from trainer.sampling.sampler import as_pixels

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline

GRID_IMAGES = 64  # of more images the first ones are in the grid
NAMED_IMAGES = 32  # more files are not printed one by one
CELL = 256  # largest side in the grid


def write(
    pipe: Pipeline,
    source: str,
    mask: str | None,
    prompts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    origin: Origin,
) -> None:
    """A PNG for each source, prompt and seed; in the grid each source stands before what was made of it."""
    pairs = list(itertools.product(prompts, seeds))
    paths = sources.files(source)
    stems = [path.stem for path in paths]
    called = {path: path.stem if stems.count(path.stem) == 1 else path.name for path in paths}
    names = {path: [f"{slug(called[path])}_{slug(prompt) or 'image'}_seed{seed:04d}.png" for prompt, seed in pairs]
             for path in paths}  # fmt: skip
    refuse_others((folder / name for each in names.values() for name in each), origin)
    make_folder(folder)
    task, done = pipe.sampler.task, 0
    shown: list[Image.Image] = []
    words: list[str] = []
    progress = Progress("drew", "images", len(paths) * len(pairs))
    for path in paths:
        try:
            given = sources.read(path, mask)
        except UserError as error:
            if len(paths) == 1:
                raise
            say(f"{error}; left out")
            continue
        drawn = sources.redraw(pipe.sampler, [given] * len(pairs), *zip(*pairs, strict=True))
        for (prompt, seed), name, pixels in zip(pairs, names[path], drawn, strict=True):
            said = pipe.sampler.conditioning.origin(prompt) | {"seed": str(seed), "source": path.name}
            save(Image.fromarray(pixels.permute(1, 2, 0).numpy()), folder / name, origin | said)
            if len(paths) * len(pairs) <= NAMED_IMAGES:
                print(folder / name)
        done += len(pairs)
        progress(done)
        if len(shown) + 1 + len(pairs) <= GRID_IMAGES or not shown:
            hole = None if given.mask is None or not task.holes else given.mask[None]
            start = as_pixels(task.start(task.of_picture(given.picture[None], hole)))
            shown += [cell(pixels.permute(1, 2, 0).numpy()) for pixels in [*start, *drawn]][:GRID_IMAGES]
            words += [path.name, *(f"{prompt} seed {seed}".strip() for prompt, seed in pairs)][:GRID_IMAGES]
    if not done:
        raise UserError(f"source={source}: none of its {len(paths)} pictures can be taken")
    said = origin | {"prompts": json.dumps([*prompts], ensure_ascii=False), "seeds": json.dumps([*seeds])}
    overview = free_name(folder, said | {"source": Path(source).name})
    side = max(image.width for image in shown)
    cells = [np.asarray(ImageOps.pad(image, (side, side), Image.Resampling.NEAREST, "white")) for image in shown]
    pixels = torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2)
    save(grid(pixels, words, min(1 + len(pairs), 16)), overview, said | {"source": Path(source).name})
    count = f"{done} image{'s' * (done > 1)}"
    print(f"{overview}\n{count} in {folder} on {pipe.sampler.device}")


def cell(pixels: np.ndarray) -> Image.Image:
    """Square, at most CELL wide, on white."""
    image = Image.fromarray(pixels)
    side = min(CELL, max(image.size))
    return ImageOps.pad(image, (side, side), color="white")
