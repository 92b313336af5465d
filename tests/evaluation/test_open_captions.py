"""Open captions: real scenes of them score 1; two things, another thing, or nothing, do not."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.data.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing
from trainer.evaluation.open_captions import PER_CAPTION, OpenCaptions, open_captions, shows
from trainer.evaluation.protocol import Study
from trainer.sampling.conditioning import Conditioning

WORDS = re.compile(r"an? (?:(small|large) )?(\w+) (\w+)(?: on a (\w+) background)?")


class Drawn:
    """Draws the scene of a caption at a place that the seed chooses; of every other one what `other` makes of it."""

    device, conditioning = torch.device("cpu"), Conditioning()

    def __init__(self, other=None):
        self.other, self.drawn = other, []

    def __call__(self, captions, seeds):
        images = []
        for caption, seed in zip(captions, seeds, strict=True):
            size, colour, shape, ground = WORDS.fullmatch(caption).groups()
            place = ["centre", "top left", "bottom right", "left"][seed % 4]
            ground = ground or next(each for each in BACKGROUNDS if each != colour)
            scene = Scene(ground, (Thing(colour, shape, size or "large", place),))
            scene = self.other(scene) if self.other and seed % 2 else scene
            images.append(torch.from_numpy(np.array(scene.render(32))).permute(2, 0, 1))
            self.drawn.append((caption, seed))
        return torch.stack(images)


def twice(scene):
    (thing,) = scene.things
    return Scene(scene.background, (thing, Thing(thing.colour, thing.shape, "small", "top right")))


def value(other=None, max_objects=3):
    sampler = Drawn(other)
    references = SimpleNamespace(images=np.zeros((4, 32, 32, 3), np.uint8), captions=["x"] * 4, attributes=[{}] * 4)
    study = Study(sampler, references, "heldout", 4, 4, "data", "x.ckpt", 1.0)
    measure = OpenCaptions(max_objects, "nowhere")
    measure.prepare(study)
    (figure,) = measure.figures()
    assert figure.metric == "attributes_open" and figure.better == "higher"
    assert figure.protocol["num_images"] == len({*sampler.drawn}) == len([*open_captions()]) * PER_CAPTION
    return figure.value


@pytest.mark.parametrize("max_objects", [1, 3])
def test_real_scenes_are_as_they_were_asked_for(max_objects):
    assert value(max_objects=max_objects) > 0.99


@pytest.mark.parametrize(
    "other",
    [
        twice,
        lambda scene: Scene(scene.background, (Thing("pink", "cross", "large", "centre"),)),
        lambda scene: Scene(scene.background, ()),
    ],
    ids=["two of them", "another thing", "nothing"],
)
def test_half_of_them_otherwise_is_half(other):
    assert value(other) == pytest.approx(0.5, abs=0.02)


def test_every_colour_and_shape_is_asked_for_with_and_without_the_rest():
    captions = dict(open_captions())
    assert len(captions) == 2 * len(COLOURS) * len(SHAPES)
    assert captions["an orange star"] == {"colour": "orange", "shape": "star"}
    full = [said for said in captions.values() if len(said) == 4]
    assert len(full) == len(captions) / 2
    assert all(said["background"] != said["colour"] for said in full)
    assert not any(word in caption for caption in captions for word in ("left", "right", "top", "bottom", "centre"))


def test_size_and_background_count_where_they_are_said():
    from trainer.runs.scenes_probe import label

    scene = Scene("white", (Thing("red", "star", "small", "left"),))
    assert shows(label(scene), {"colour": "red", "shape": "star"})
    assert shows(label(scene), {"colour": "red", "shape": "star", "size": "small", "background": "white"})
    assert not shows(label(scene), {"colour": "red", "shape": "star", "size": "large", "background": "white"})
    assert not shows(label(scene), {"colour": "red", "shape": "star", "size": "small", "background": "grey"})
