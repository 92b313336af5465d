"""Pictures that an image task starts from: files of users, in tiles where they are larger than those of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from trainer.data.build import CORRUPT
from trainer.data.colours import as_rgb, in_8_bits
from trainer.data.files import IMAGE_SUFFIXES, MAX_PIXELS, open_image
from trainer.errors import UserError
from trainer.sampling.sampler import NO_TASK, Sampler, as_pixels
from trainer.size import Size
from trainer.tasks.examples import source_size

AT_ONCE = 256  # tiles, as soon as so many are there
OVERLAP = 4  # of the side of a tile, one part
CONTEXT = 2.0  # width of what is seen of a picture with a hole, of that of the hole


class Source(NamedTuple):
    """A picture of the user's: (3, h, w) in [-1, 1], and a mask (1, h, w), 1 in a hole, or None."""

    picture: Tensor
    mask: Tensor | None


def files(path: str | Path) -> list[Path]:
    """A picture, or those of a folder in order of their names; UserError where there is none."""
    found = Path(path).expanduser()
    if not found.exists():
        raise UserError(f"source={path}: no such file or folder; give a picture, or a folder of them")
    if found.is_file():
        return [found]
    pictures = sorted(each for each in found.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)
    if not pictures:
        raise UserError(f"source={path}: no picture in this folder; expected .png, .jpg, .webp, ...")
    return pictures


def opened(path: Image.Image | str | Path, key: str) -> Image.Image:
    """The picture, whole and upright; UserError with the file if it cannot be read."""
    if isinstance(path, Image.Image):
        return ImageOps.exif_transpose(path)
    try:
        image = open_image(Path(path).expanduser(), MAX_PIXELS)
        image.load()
    except CORRUPT as error:
        raise UserError(f"{key}={path}: not a picture that can be read ({error})") from error
    return ImageOps.exif_transpose(image)


def read(source: Image.Image | str | Path, mask: Image.Image | str | Path | None = None) -> Source:
    """A picture and its hole: where the mask is white, or where the picture is transparent if there is none.

    Where nothing is to be filled, what is transparent is white, as in training. UserError for a mask of another size.
    """
    image, hole = in_8_bits(opened(source, "source")), None
    covered = None if mask is None else opened(mask, "mask")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if covered is None:
            hole = tensor(image.getchannel("A"))[None] < 0
    if covered is not None:
        if covered.size != image.size:
            sizes = [f"{width} x {height}" for width, height in (covered.size, image.size)]
            raise UserError(f"mask: {sizes[0]} pixels, and source has {sizes[1]}: expected the same size")
        hole = tensor(in_8_bits(covered).convert("L"))[None] > 0
    picture = tensor(as_rgb(image)).permute(2, 0, 1)
    return Source(picture, hole.float() if hole is not None and hole.any() else None)


def tensor(image: Image.Image) -> Tensor:
    """Values in [-1, 1], in the order of the picture."""
    return torch.from_numpy(np.asarray(image).copy()).float().div_(127.5).sub_(1)


def redraw(
    sampler: Sampler, sources: Sequence[Source], captions: Sequence[str], seeds: Sequence[int]
) -> list[Tensor]:
    """N pictures (3, scale h, scale w) uint8 on the CPU, of N sources, captions and seeds, by the task of a run.

    What is larger than pictures of training is drawn in tiles that overlap by a quarter, and run into each other there;
    what is smaller is continued by its edge. All tiles have the caption and the seed of their picture. A hole is drawn
    as a whole, in a window around it that is made as small as pictures of training: it is one thing that comes into it.
    """
    if sampler.task is None:
        raise UserError(NO_TASK)
    size = source_size(sampler.network)
    kind: type[Tiles] | type[Window] = Window if sampler.task.holes else Tiles
    found: list[Tensor] = []
    while len(found) < len(sources):
        cut = [kind.of(sampler.task, size, sources[len(found)])]
        while len(found) + len(cut) < len(sources) and sum(len(each.tiles) for each in cut) < AT_ONCE:
            cut.append(kind.of(sampler.task, size, sources[len(found) + len(cut)]))
        some = slice(len(found), len(found) + len(cut))
        texts = [caption for caption, each in zip(captions[some], cut, strict=True) for _ in each.tiles]
        numbers = [seed for seed, each in zip(seeds[some], cut, strict=True) for _ in each.tiles]
        drawn = sampler(texts, numbers, torch.cat([each.tiles for each in cut])).cpu()
        parts = drawn.split([len(each.tiles) for each in cut])
        found += [each.joined(part, sampler.task.scale) for each, part in zip(cut, parts, strict=True)]
    return found


class Tiles(NamedTuple):
    """tiles: (T, C, *size) of a source (C, height, width), at all of rows x columns.

    top, left: where the source begins in them, of one that is smaller: it is in the middle, continued by its edges.
    """

    tiles: Tensor
    rows: list[int]
    columns: list[int]
    height: int
    width: int
    top: int
    left: int

    @classmethod
    def of(cls, task: Any, size: Size, source: Source) -> Tiles:
        """Of the size that a network learned with."""
        given = task.of_picture(source.picture[None])
        height, width = given.shape[2:]
        down, across = max(0, size.height - height), max(0, size.width - width)
        top, left = down // 2, across // 2
        given = F.pad(given, (left, across - left, top, down - top), mode="replicate")
        rows, columns = (starts(*lengths) for lengths in zip(given.shape[2:], size, strict=True))
        tiles = torch.cat([given[:, :, y : y + size.height, x : x + size.width] for y in rows for x in columns])
        return cls(tiles, rows, columns, height, width, top, left)

    def joined(self, drawn: Tensor, scale: int) -> Tensor:
        """(3, scale h, scale w) uint8 of drawn tiles (T, 3, H, W), weighted by how far a pixel is from their edge."""
        height, width = drawn.shape[2:]
        inside = (
            slice(None),
            slice(scale * self.top, scale * (self.top + self.height)),
            slice(scale * self.left, scale * (self.left + self.width)),
        )
        if len(drawn) == 1:
            return drawn[0][inside]
        inwards = [torch.arange(1.0, length + 1) for length in (height, width)]
        down, across = (each.minimum(each.flip(0)) for each in inwards)
        weight = down[:, None] * across
        total = torch.zeros(3, scale * self.rows[-1] + height, scale * self.columns[-1] + width)
        weights = torch.zeros_like(total[0])
        places = [(slice(scale * y, scale * y + height), slice(scale * x, scale * x + width))
                  for y in self.rows for x in self.columns]  # fmt: skip
        for (y, x), tile in zip(places, drawn, strict=True):
            total[:, y, x] += weight * tile.float()
            weights[y, x] += weight
        return (total / weights).round().to(torch.uint8)[inside]


class Window(NamedTuple):
    """tiles: (1, C, *size) of what is around a hole; at: where that begins in the picture, (top, left); part: its size.

    One that is larger than the picture begins before it: top or left is below 0.
    """

    tiles: Tensor
    at: tuple[int, int]
    part: Size
    source: Source

    @classmethod
    def of(cls, task: Any, size: Size, source: Source) -> Window:
        """A part around the hole in the proportions of `size`, CONTEXT times as wide as that and no less than `size`,
        to which it is brought.

        Within the picture, where that is as large; else the picture within it, continued by its edges.
        """
        if source.mask is None:
            task.of_picture(source.picture[None])  # which says what is missing
        assert source.mask is not None
        rows, columns = (torch.nonzero(source.mask[0].any(axis))[:, 0] for axis in (1, 0))
        ends = [(int(each.min()), int(each.max()) + 1) for each in (rows, columns)]
        height, width = source.picture.shape[1:]
        wanted = [round(CONTEXT * (end - begin)) for begin, end in ends]
        tall = max(size.height, min(covering(Size(*wanted), size), covering(Size(height, width), size)))
        part = Size(tall, round(tall * size.width / size.height))
        top, left = (
            min(max((begin + end - own) // 2, min(0, length - own)), max(0, length - own))
            for (begin, end), length, own in zip(ends, (height, width), part, strict=True)
        )
        pad = [max(0, each) for each in (-left, left + part.width - width, -top, top + part.height - height)]
        picture = F.pad(source.picture[None], pad, mode="replicate")
        mask = F.pad(source.mask[None], pad)
        down, right = max(0, top), max(0, left)
        seen = [each[:, :, down : down + part.height, right : right + part.width] for each in (picture, mask)]
        if part != size:
            seen = [F.interpolate(each, size=size, mode="area") for each in seen]
        return cls(task.of_picture(seen[0], (seen[1] > 0).float()), (top, left), part, source)

    def joined(self, drawn: Tensor, scale: int) -> Tensor:
        """(3, h, w) uint8 of the picture with the drawn window (1, 3, H, W) where the hole is."""
        assert self.source.mask is not None
        top, left = self.at
        if drawn.shape[2:] != self.part:
            drawn = F.interpolate(drawn.float(), size=self.part, mode="bicubic").round().clamp(0, 255)
        whole = as_pixels(self.source.picture)
        inside = (slice(None), slice(max(0, top), top + self.part.height), slice(max(0, left), left + self.part.width))
        part = whole[inside]  # a view; the window may begin before the picture, and end beyond it
        drawn = drawn[0, :, max(0, -top) :, max(0, -left) :][:, : part.shape[1], : part.shape[2]]
        part.copy_(torch.where(self.source.mask[inside] > 0, drawn.to(torch.uint8), part))
        return whole


def covering(least: Size, size: Size) -> int:
    """Rows of what covers `least` in the proportions of `size`."""
    return max(least.height, -(-least.width * size.height // size.width))


def starts(length: int, side: int) -> list[int]:
    """Where tiles begin, evenly, so that each overlaps the next by a quarter of its side or more."""
    steps = -(-(length - side) // (side - side // OVERLAP))
    return [round(i * (length - side) / steps) if steps else 0 for i in range(steps + 1)]
