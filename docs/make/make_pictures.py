"""Forty captioned pictures to try a data set of one's own with: python docs/make/make_pictures.py FOLDER"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple")
SHAPES = ("circle", "square")

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
lines = []
for number in range(40):
    colour, shape, size = COLOURS[number % 5], SHAPES[number // 5 % 2], 20 + number % 4 * 4
    picture = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(picture)
    box = (48 - size, 48 - size, 48 + size, 48 + size)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=colour)
    name = f"{number:04d}.png"
    picture.save(folder / name)
    lines.append(json.dumps({"file_name": name, "text": f"a {colour} {shape}"}))
(folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
print(f"{len(lines)} pictures in {folder}")
print(lines[0])
