"""Ways from one caption to another, or from one seed to another, in even steps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import Progress
from trainer.sampling.features import between, slerp
from trainer.sampling.files import Origin, free_name, make_folder, refuse_others, save
from trainer.sampling.grids import grid
from trainer.sampling.prompts import slug

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline
    from trainer.sampling.sampler import Sampler

MOST_STEPS = 1000


def paths(
    sampler: Sampler, captions: Sequence[str], seeds: Sequence[int], steps: int
) -> Iterator[tuple[Tensor, Condition, list[str]]]:
    """Latents (steps, Z), conditions of as many rows, and a label for each: a path for each seed, or between two seeds.

    captions: two, or one with exactly two seeds; "" is that of a model without text. UserError for anything else.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise UserError(f"steps={steps}: expected 2 to {MOST_STEPS}, the ends among them")
    wordless = getattr(sampler.text, "wordless", False)
    if not all(isinstance(caption, str) and (wordless or caption.strip()) for caption in captions):
        raise UserError(f"interpolate={list(captions)}: expected captions and none empty")
    if len(captions) not in (1, 2) or not seeds or (len(captions) == 1 and len(seeds) != 2):
        raise UserError(
            f"interpolate={list(captions)}, {len(seeds)} seeds: expected two captions, as in interpolate=[a cat, a "
            "dog], or one caption and two seeds"
        )
    at = torch.linspace(0, 1, steps)
    condition = sampler.conditions(captions)
    middle = [f"{each:.2f}" for each in at[1:-1].tolist()]
    latents = sampler.latents(seeds)
    if len(captions) == 1:
        labels = [f"{captions[0]} seed {seeds[0]}".strip(), *middle, f"seed {seeds[1]}"]
        yield slerp(latents[0], latents[1], at), condition.rows([0] * steps), labels
        return
    for latent in latents:
        yield latent.expand(steps, -1), between(condition, at), [captions[0], *middle, captions[1]]


def write(
    pipe: Pipeline, captions: Sequence[str], seeds: Sequence[int], steps: int, folder: Path, origin: Origin
) -> None:
    """A PNG for each step of each path, and a grid with a row a path."""
    rows = list(paths(pipe.sampler, captions, seeds, steps))
    name = "-to-".join(slug(caption) for caption in captions)
    numbers = [f"{seed:04d}" for seed in seeds] if len(captions) == 2 else [f"{seeds[0]:04d}-to-{seeds[1]:04d}"]
    files = [[folder / f"{name}_seed{each}_step{i:02d}.png" for i in range(1, steps + 1)] for each in numbers]
    said = origin | {"interpolate": json.dumps([*captions], ensure_ascii=False), "steps": str(steps)}
    if pipe.sampler.conditioning.enrich:
        said |= {"enriched": json.dumps(pipe.sampler.conditioning.enriched(captions), ensure_ascii=False)}
    refuse_others((file for row in files for file in row), said)
    make_folder(folder)
    progress, drawn, labels = Progress("drew", "images", len(rows) * steps), [], []
    for (latents, condition, words), row, number in zip(rows, files, numbers, strict=True):
        samples = pipe.draw(latents, condition, words)
        for file, image in zip(row, samples.images, strict=True):
            save(image, file, said | {"seed": number})
        drawn.append(samples.pixels.cpu())
        labels += words
        progress(len(labels))
    said |= {"seeds": json.dumps([*seeds])}
    overview = free_name(folder, said)
    save(grid(torch.cat(drawn), labels, steps), overview, said)
    print(f"{overview}\n{len(labels)} images in {folder} on {pipe.sampler.device}")
