"""Whether the caption says what comes into a hole (data=shapes)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from trainer.data.scenes import COLOURS
from trainer.evaluation.attributes import OwnScenes, scene_of
from trainer.evaluation.protocol import shares, spread
from trainer.metrics import distributed
from trainer.metrics.attributes import read
from trainer.runs.results import Figure

NUM_SCENES = 64
APART = 6  # grey levels by which a pixel of the object differs from the background
MARGIN = 2  # pixels around the object that are hole, too


class Steering(OwnScenes):
    """Share of pictures whose object has the colour that the caption says, and of those in which all else fits as well.

    64 scenes of one object, which a hole covers, each with captions of all eight colours and all else as it was.
    """

    def figures(self) -> list[Figure]:
        study, references = self.study, self.study.references
        alone = [i for i, said in enumerate(references.attributes) if len(said["objects"]) == 1]
        chosen = [alone[i] for i in spread(len(alone), min(NUM_SCENES, len(alone)))]
        right = torch.zeros(2, dtype=torch.float64)
        for numbers in shares(len(chosen), "steering: measured", "scenes"):
            for number in numbers:
                index = chosen[number]
                said, caption = references.attributes[index], references.captions[index]
                image = torch.from_numpy(references.images[index].copy()).permute(2, 0, 1)[None].to(study.device)
                source = study.sampler.task.of_picture(image.float() / 127.5 - 1, around(image))
                own = said["objects"][0]
                captions = [re.sub(rf"\b{own['colour']}\b", colour, caption, count=1) for colour in COLOURS]
                seeds = range(study.seed + number * len(COLOURS), study.seed + (number + 1) * len(COLOURS))
                images = study.sampler(captions, seeds, source.expand(len(COLOURS), -1, -1, -1)).cpu()
                for colour, values in zip(COLOURS, read(self.probe, images).tolist(), strict=True):
                    things, ground = scene_of(values)
                    if len(things) == 1:
                        wanted = own | {"colour": colour}
                        whole = wanted.items() <= vars(things[0]).items() and ground == said["background"]
                        right += torch.tensor([things[0].colour == colour, whole])
        count = len(chosen) * len(COLOURS)
        values = (distributed.add(right, study.device) / count).tolist()
        told = {"num_images": count, "captions": "of each colour", "task": str(study.sampler.task), **self.protocol}
        names = ("attributes_steered", "attributes_steered_scene")
        return [study.figure(name, value, "higher", **told) for name, value in zip(names, values, strict=True)]


def around(image: Tensor) -> Tensor:
    """(1, 1, H, W) 1 in the box of all that is not as the first corner of an image (1, 3, H, W) uint8."""
    corner = image[:, :, :1, :1].int()
    other = ((image.int() - corner).abs() > APART).any(1)[0]
    rows, columns = (torch.nonzero(other.any(axis))[:, 0] for axis in (1, 0))
    hole = torch.zeros_like(image[:, :1], dtype=torch.float32)
    top, left = (max(0, int(each.min()) - MARGIN) for each in (rows, columns))
    hole[:, :, top : int(rows.max()) + MARGIN + 1, left : int(columns.max()) + MARGIN + 1] = 1
    return hole
