"""Steering: scenes that are as their captions say score 1, those that ignore them an eighth."""

import re
from types import SimpleNamespace

import numpy as np
import torch

from trainer.data.scenes import COLOURS, Scene, Thing
from trainer.evaluation.protocol import Study
from trainer.evaluation.steering import Steering, around
from trainer.sampling.conditioning import Conditioning
from trainer.tasks.inpainting import Inpainting

SCENES = [
    Scene("white", (Thing("red", "star", "small", "left"),)),
    Scene("navy", (Thing("pink", "square", "large", "top right"),)),
    Scene("grey", (Thing("blue", "cross", "small", "centre"), Thing("red", "heart", "small", "bottom"))),
    Scene("black", (Thing("orange", "heart", "large", "bottom"),)),
]


def pixels(scene):
    return np.array(scene.render(32))


class Drawn:
    """Draws the scene of a caption, with another colour where `colour` makes one of it, or another shape."""

    device, conditioning, task = torch.device("cpu"), Conditioning(), Inpainting()

    def __init__(self, colour=lambda said: said, shape=None):
        self.colour, self.shape, self.sources = colour, shape, []

    def __call__(self, captions, seeds, sources):
        self.sources.append(sources)
        found = []
        for caption in captions:
            (said,) = (word for word in COLOURS if re.search(rf"\b{word}\b", caption))
            (scene,) = (each for each in SCENES if caption in [c.replace(each.things[0].colour, said, 1)
                                                              for c in each.captions()])  # fmt: skip
            own = scene.things[0]
            thing = Thing(self.colour(said), self.shape or own.shape, own.size, own.position)
            found.append(torch.from_numpy(pixels(Scene(scene.background, (thing,)))).permute(2, 0, 1))
        return torch.stack(found)


def values(sampler):
    references = SimpleNamespace(
        images=np.stack([pixels(each) for each in SCENES]),
        captions=[each.captions()[0] for each in SCENES],
        attributes=[each.attributes() for each in SCENES],
    )
    measure = Steering(1, "nowhere")
    measure.prepare(Study(sampler, references, "heldout", 4, 4, "data", "x.ckpt", 1.0))
    figures = measure.figures()
    assert [each.metric for each in figures] == ["attributes_steered", "attributes_steered_scene"]
    assert figures[0].protocol["num_images"] == 3 * len(COLOURS), "scenes of one object alone"
    return [each.value for each in figures]


def test_what_is_drawn_as_it_is_said_is_right_and_the_hole_covers_the_object():
    sampler = Drawn()
    assert values(sampler) == [1, 1]
    for sources, scene in zip(sampler.sources, (SCENES[0], SCENES[1], SCENES[3]), strict=True):
        seen = ((sources[0, :3] + 1) * 127.5).round().permute(1, 2, 0)[sources[0, 3] < 0]
        assert (seen - seen[0]).abs().max() <= 6, f"of {scene} the background alone is seen"


def test_what_ignores_the_caption_is_right_by_chance():
    assert values(Drawn(colour=lambda said: "red")) == [1 / 8, 1 / 8]
    assert values(Drawn(shape="circle")) == [1, 0]


def test_a_hole_reaches_beyond_what_differs():
    image = torch.full((1, 3, 20, 20), 40, dtype=torch.uint8)
    image[:, :, 5:9, 1:7] = 200
    hole = around(image)[0, 0]
    assert hole.sum() == 8 * 9 and hole[3:11, 0:9].all()
    assert around(image).shape == (1, 1, 20, 20)
