"""Whether one whole thing is drawn for captions that leave its place open (data=shapes), as people type them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch

from trainer.data.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES
from trainer.evaluation.attributes import OwnScenes, scene_of
from trainer.evaluation.protocol import shares
from trainer.metrics import distributed
from trainer.metrics.attributes import read
from trainer.runs.results import Figure

PER_CAPTION = 4


class OpenCaptions(OwnScenes):
    """Share of samples that show one object, with the colour, shape, size and background that the caption says.

    4 samples of each of 96 captions: "a red star" and "a small red star on a white background", of every colour and
    shape. Captions of training say where a thing stands, and of those that do not, distances say nothing: a model may
    draw pieces of one thing at several places. Captions and seeds do not depend on the number of other samples.
    """

    def figures(self) -> list[Figure]:
        study, captions = self.study, [*open_captions()]
        right = torch.zeros(1, dtype=torch.float64)
        for numbers in shares(len(captions), "open captions: measured", "captions"):
            for number in numbers:
                caption, said = captions[number]
                seeds = range(study.seed + number * PER_CAPTION, study.seed + (number + 1) * PER_CAPTION)
                images = study.sampler([caption] * PER_CAPTION, seeds).cpu()
                right += sum(shows(values, said) for values in read(self.probe, images).tolist())
        count = len(captions) * PER_CAPTION
        value = distributed.add(right, study.device).item() / count
        told: dict[str, Any] = {"num_images": count, "captions": "open", "images_a_caption": PER_CAPTION}
        return [study.figure("attributes_open", value, "higher", **self.protocol, **told)]


def open_captions() -> Iterator[tuple[str, dict[str, str]]]:
    """Captions, and what each says."""
    for number, (colour, shape) in enumerate(product(COLOURS, SHAPES)):
        size = [*SIZES][number % len(SIZES)]
        ground = [each for each in BACKGROUNDS if each != colour][number % (len(BACKGROUNDS) - 1)]
        article = "an" if colour[0] in "aeiou" else "a"
        yield f"{article} {colour} {shape}", {"colour": colour, "shape": shape}
        said = {"colour": colour, "shape": shape, "size": size, "background": ground}
        yield f"a {size} {colour} {shape} on a {ground} background", said


def shows(values: Sequence[int], said: dict[str, str]) -> bool:
    """Whether the probe has read one thing, and it as it was said."""
    things, background = scene_of(values)
    if len(things) != 1:
        return False
    seen = {**vars(things[0]), "background": background}
    return all(seen[name] == word for name, word in said.items())
