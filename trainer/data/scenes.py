"""Scenes of coloured shapes: their words, their pictures and their captions."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from itertools import combinations, starmap
from typing import Any

from PIL import Image, ImageDraw

from trainer.size import Resolution, Size

Rgb = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Rgb] = {
    "red": (220, 35, 40),
    "orange": (250, 140, 25),
    "yellow": (250, 225, 50),
    "green": (40, 165, 65),
    "cyan": (65, 215, 230),
    "blue": (45, 90, 225),
    "purple": (140, 60, 190),
    "pink": (250, 140, 200),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (250, 250, 250),
    "grey": (140, 140, 140),
    "black": (15, 15, 15),
    "beige": (232, 215, 180),
    "brown": (110, 70, 40),
    "navy": (20, 25, 85),
}
SIZES: dict[str, float] = {"small": 0.26, "large": 0.48}  # of the image's side
POSITIONS: dict[str, Point] = {  # centre of the object, x right and y down, of the image's side
    "centre": (0.5, 0.5),
    "top left": (0.26, 0.26),
    "top": (0.5, 0.26),
    "top right": (0.74, 0.26),
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "bottom left": (0.26, 0.74),
    "bottom": (0.5, 0.74),
    "bottom right": (0.74, 0.74),
}
JITTER = 0.02
_GAP = 0.02  # between the boxes of two things; half a pixel of 32
SUPERSAMPLING = 4


def _star() -> tuple[Point, ...]:
    radii = (0.54, 0.22)
    angles = [math.pi * k / 5 for k in range(10)]
    return tuple((radii[k % 2] * math.sin(a), 0.05 - radii[k % 2] * math.cos(a)) for k, a in enumerate(angles))


def _heart() -> tuple[Point, ...]:
    turns = [2 * math.pi * k / 48 for k in range(48)]
    wave = [(1, 13), (2, -5), (3, -2), (4, -1)]
    return tuple((math.sin(t) ** 3 / 2, -sum(c * math.cos(k * t) for k, c in wave) / 32 - 0.06) for t in turns)


_A, _B = 0.5, 0.17
SHAPES: dict[str, tuple[Point, ...]] = {  # outline about the origin, one unit wide
    "circle": tuple((math.sin(2 * math.pi * k / 64) / 2, math.cos(2 * math.pi * k / 64) / 2) for k in range(64)),
    "square": ((-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)),
    "triangle": ((0, -0.5), (0.54, 0.45), (-0.54, 0.45)),
    "star": _star(),
    "heart": _heart(),
    "cross": (
        *((-_B, -_A), (_B, -_A), (_B, -_B), (_A, -_B), (_A, _B), (_B, _B)),
        *((_B, _A), (-_B, _A), (-_B, _B), (-_A, _B), (-_A, -_B), (-_B, -_B)),
    ),
}


@dataclass(frozen=True)
class Thing:
    """One object of a scene, by its words, with the jitter of its centre in units of the image's side."""

    colour: str
    shape: str
    size: str
    position: str
    jitter: Point = (0.0, 0.0)

    @property
    def centre(self) -> Point:
        x, y = POSITIONS[self.position]
        return x + self.jitter[0], y + self.jitter[1]

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]

    def attributes(self) -> dict[str, Any]:
        """{"background": ..., "objects": [{"colour", "shape", "size", "position"}]}, as JSON holds it."""
        words = [{k: v for k, v in asdict(thing).items() if k != "jitter"} for thing in self.things]
        return {"background": self.background, "objects": words}

    def render(self, resolution: Resolution) -> Image.Image:
        """RGB image at this resolution, antialiased; places go with each side, sizes with the shorter."""
        height, width = (each * SUPERSAMPLING for each in Size.of(resolution))
        side = min(height, width)
        image = Image.new("RGB", (width, height), BACKGROUNDS[self.background])
        draw = ImageDraw.Draw(image)
        for thing in self.things:
            (x, y), size = thing.centre, SIZES[thing.size]
            across, down = size * (side / width), size * (side / height)
            outline = [((x + across * u) * width - 0.5, (y + down * v) * height - 0.5) for u, v in SHAPES[thing.shape]]
            draw.polygon(outline, fill=COLOURS[thing.colour])
        return image.reduce(SUPERSAMPLING)

    def captions(self) -> tuple[str, ...]:
        """Ways to say it: one object by its place, several by their relations first and then by their places."""
        ground = f"on a {self.background} background"
        placed = [f"{thing} {place(thing)}" for thing in self.things]
        by_place = " and ".join(filter(None, [", ".join(placed[:-1]), placed[-1]]))
        by_place_captions = (f"{by_place} {ground}", f"{ground}, {by_place}")
        if len(self.things) == 1:
            return by_place_captions
        first, *others = self.things
        related = " and ".join(f"{relation(first, other)} {other}" for other in others)
        return (f"{first} {related} {ground}", *by_place_captions)


def place(thing: Thing) -> str:
    at = "on" if thing.position in ("left", "right") else "at" if thing.position in ("top", "bottom") else "in"
    return f"{at} the {thing.position}"


def relation(thing: Thing, other: Thing) -> str:
    """Where `thing` stands as seen from `other`, along the axis in which they differ more."""
    (x, y), (u, v) = POSITIONS[thing.position], POSITIONS[other.position]
    if abs(x - u) > abs(y - v):
        return "left of" if x < u else "right of"
    return "above" if y < v else "below"


def random_scene(rng: random.Random, max_objects: int) -> Scene:
    """1 to max_objects objects that do not touch; all counts, and all words of a lone object, equally likely."""
    count = 1 + int(rng.random() * max_objects)
    while True:
        things = tuple(_random_thing(rng) for _ in range(count))
        background = _pick(rng, BACKGROUNDS)
        hidden = any(thing.colour == background for thing in things)
        if not hidden and not any(starmap(_touch, combinations(things, 2))):
            return Scene(background, things)


def _random_thing(rng: random.Random) -> Thing:
    words = (_pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, SIZES), _pick(rng, POSITIONS))
    return Thing(*words, jitter=(JITTER * (2 * rng.random() - 1), JITTER * (2 * rng.random() - 1)))


def _pick(rng: random.Random, words: dict[str, Any]) -> str:
    return list(words)[int(rng.random() * len(words))]  # random() alone is promised to stay the same in every Python


def _touch(thing: Thing, other: Thing) -> bool:
    (x, y), (u, v) = POSITIONS[thing.position], POSITIONS[other.position]
    reach = (SIZES[thing.size] + SIZES[other.size]) / 2
    near = abs(x - u) < reach and abs(y - v) < reach
    one, two = _box(thing), _box(other)  # as drawn: two large things can meet over opposite places
    return near or all(one[i] < two[i + 2] + _GAP and two[i] < one[i + 2] + _GAP for i in (0, 1))


def _box(thing: Thing) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what is drawn, of the image's side."""
    (x, y), size = thing.centre, SIZES[thing.size]
    across, down = zip(*SHAPES[thing.shape], strict=True)
    return x + size * min(across), y + size * min(down), x + size * max(across), y + size * max(down)
