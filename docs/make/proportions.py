"""Scenes in three proportions as a folder of pictures, and what a generator that learned from it draws at each.

    python docs/make/proportions.py write FOLDER            6,000 pictures, a third of them wide, a third tall
    python docs/make/proportions.py draw RUN FILE.png       the same captions and seeds at four sizes

docs/data.md has the training between the two.
"""

import sys
from pathlib import Path

from PIL import Image

from trainer.data.shapes import Shapes
from trainer.sampling.pipeline import load

SIDES = [(48, 96), (64, 64), (96, 48)]
SIZES = [(24, 48), (32, 32), (48, 24), (32, 64)]
CAPTIONS = [
    "a small red circle on the left on a white background",
    "a large yellow star on the right on a brown background",
    "a small green triangle at the top on a black background",
    "a large red square at the bottom on a grey background",
    "a large blue cross in the centre on a white background",
]


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(Shapes(6000, max_objects=1).items()):
        item.load(SIDES[number % 3]).save(folder / f"{number:05d}.png")
        (folder / f"{number:05d}.txt").write_text(item.captions[0])


def draw(run: str, file: Path) -> None:
    pipe = load(run, "cpu")
    rows = [pipe(CAPTIONS, seeds=0, resolution=list(size)).images for size in SIZES]
    gap = 6
    width = gap + sum(max(size[1] for size in SIZES) * 2 + gap for _ in CAPTIONS)
    sheet = Image.new("RGB", (width, gap + sum(2 * size[0] + gap for size in SIZES)), "white")
    top = gap
    for size, images in zip(SIZES, rows, strict=True):
        for column, image in enumerate(images):
            large = image.resize((2 * size[1], 2 * size[0]), Image.Resampling.NEAREST)
            sheet.paste(large, (gap + column * (2 * max(each[1] for each in SIZES) + gap), top))
        top += 2 * size[0] + gap
    sheet.save(file)


if sys.argv[1] == "write":
    write(Path(sys.argv[2]))
else:
    draw(sys.argv[2], Path(sys.argv[3]))
