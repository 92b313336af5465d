"""How often edits of scenes do what they shall, and nothing else: python docs/make/edits.py RUN [MATCHER] [SCENES]

Held-out scenes of one shape, which no training has seen, are inverted, and one word of each caption is changed at a
time: colour, shape, size, place. A probe reads the picture that comes of it. `reached`: share in which it reads the new
word; `kept`: mean share of the other three and the background that it reads as they were; `all`: all five as they
should be; `dB`: PSNR beside the scene as it would be drawn with that word, at the same place to the pixel.
inverted: what the generator makes of the picture, unedited, beside the picture itself. redrawn: the new caption at
latents of seeds, which knows nothing of the picture. caption: the new caption in the place of the old one. judged: led
on by MATCHER, a run of experiment=matching. directions: the old caption, and channels of the style moved by MATCHER.
edits.png shows the first scenes, inverted and edited, the edits of directions below those judged.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer import load
from trainer.data.scenes import COLOURS, POSITIONS, SHAPES, SIZES, Scene, random_scene
from trainer.data.shapes import Shapes
from trainer.editing.canvas import Canvas, Point
from trainer.editing.captions import of_data
from trainer.editing.directions import directed, effects
from trainer.editing.edits import optimized, replaced
from trainer.editing.inversion import invert
from trainer.editing.photos import judge_of
from trainer.evaluation.attributes import scene_of
from trainer.metrics.attributes import read
from trainer.metrics.similarity import psnr
from trainer.report import table
from trainer.runs.scenes_probe import scenes_probe
from trainer.sampling.grids import grid
from trainer.sampling.sampler import as_pixels
from trainer.text.cache import cache_root

WORDS: dict[str, dict[str, Any]] = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "position": POSITIONS}
SHOWN = 4  # scenes
HEAD = ("edit", "what", "reached", "kept", "all", "dB")


def held_out(count: int) -> list[Scene]:
    """Scenes of a combination of words that no training scene has."""
    rng, source, found = random.Random("edits"), Shapes(max_objects=1), []
    while len(found) < count:
        if source.is_heldout(scene := random_scene(rng, 1)):
            found.append(scene)
    return found


def changed(scene: Scene, word: str, number: int) -> Scene:
    """The scene with another colour, shape, size or place, each of them in turn."""
    [thing] = scene.things
    others = [each for each in WORDS[word] if each != getattr(thing, word)]
    return replace(scene, things=(replace(thing, **{word: others[number % len(others)]}),))


def pictures(scenes: Sequence[Scene], resolution: int) -> Tensor:
    """(N, 3, H, W) uint8."""
    drawn = [torch.from_numpy(np.array(scene.render(resolution))) for scene in scenes]
    return torch.stack(drawn).permute(0, 3, 1, 2)


def row(probe: Any, images: Tensor, wanted: Sequence[Scene], word: str, what: str) -> tuple[str, ...]:
    right = []
    for values, scene in zip(read(probe, images).tolist(), wanted, strict=True):
        things, ground = scene_of(values)
        same = [len(things) == 1 and getattr(things[0], each) == getattr(scene.things[0], each) for each in WORDS]
        right.append([*same, ground == scene.background])
    share = torch.tensor(right).double()
    asked = [*WORDS].index(word) if word else None
    kept = [at for at in range(share.shape[1]) if at != asked]
    decibels = psnr(images, pictures(wanted, images.shape[-1])).mean().item()
    reached = f"{share[:, asked].mean():.1%}" if asked is not None else ""
    rest, whole = share[:, kept].mean(), share.bool().all(1).double().mean()
    return word, what, reached, f"{rest:.1%}", f"{whole:.1%}", f"{decibels:.1f}"


def main() -> None:
    run, *more = sys.argv[1:] or sys.exit("expected a run that draws scenes of data=shapes_single")
    matcher, count = (more[0] if more else None), int(more[1]) if len(more) > 1 else 200
    pipe, scenes = load(run), held_out(count)
    canvas, judge = Canvas(pipe.objective, pipe.text), judge_of(matcher, None, pipe.sampler.device)
    probe, _ = scenes_probe(canvas.resolution, 1, cache_root(None))
    images = pictures(scenes, canvas.resolution).to(canvas.device).float().div(127.5).sub(1)
    captions = [scene.captions()[0] for scene in scenes]
    start = invert(canvas, images, captions)
    found = effects(canvas, judge, of_data(pipe), pipe.path) if judge else None

    def drawn(point: Point) -> Tensor:
        with torch.no_grad():
            return as_pixels(canvas(point)).cpu()

    rows = [row(probe, drawn(start), scenes, "", "inverted")]
    shown = [as_pixels(images).cpu(), drawn(start)]
    words = [captions, ["inverted"] * count]
    below = [as_pixels(images).cpu(), drawn(start)]
    for word in WORDS:
        wanted = [changed(scene, word, number) for number, scene in enumerate(scenes)]
        prompts = [scene.captions()[0] for scene in wanted]
        end = replaced(canvas, start, prompts)
        rows.append(row(probe, pipe.sampler(prompts, range(count)).cpu(), wanted, word, "redrawn"))
        rows.append(row(probe, drawn(end), wanted, word, "caption"))
        if judge:
            end = optimized(canvas, end, prompts, judge)
            rows.append(row(probe, drawn(end), wanted, word, "judged"))
            moved = directed(canvas, start, captions, prompts, judge, found)
            rows.append(row(probe, drawn(moved), wanted, word, "directions"))
            below.append(drawn(moved))
        shown.append(drawn(end))
        words.append([str(getattr(scene.things[0], word)) for scene in wanted])
    print(table.plain(HEAD, rows, left=(0, 1)))
    lines = [shown, below] if judge else [shown]
    pieces = [torch.stack([each[n] for each in line]) for n in range(min(SHOWN, count)) for line in lines]
    labels = [each[n // len(lines)] for n in range(len(pieces)) for each in words]
    grid(torch.cat(pieces), labels, len(words)).save("edits.png")


if __name__ == "__main__":
    main()
