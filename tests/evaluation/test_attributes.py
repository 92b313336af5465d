import random

import numpy as np
import pytest
import torch

from trainer.data.scenes import Scene, Thing, random_scene
from trainer.evaluation.attributes import NAMES, scene_of, score_scene
from trainer.metrics.attributes import read
from trainer.runs import scenes_probe
from trainer.runs.scenes_probe import label

RED, BLUE = Thing("red", "circle", "small", "left"), Thing("blue", "star", "large", "right")
TWO = Scene("white", (RED, BLUE)).attributes()


def shares(wanted, things, background="white"):
    right, asked = score_scene(wanted, things, background).tolist()
    return {name: (right[i], asked[i]) for i, name in enumerate(NAMES)}


def test_a_label_says_the_scene():
    rng = random.Random(0)
    for _ in range(50):
        scene = random_scene(rng, 3)
        things, background = scene_of(label(scene))
        assert background == scene.background
        assert {str(thing) + thing.position for thing in things} == {str(t) + t.position for t in scene.things}
        found = shares(scene.attributes(), things, background)
        assert all(right == asked for right, asked in found.values())
        assert found["count"] == found["background"] == found["scene"] == (1, 1)


def test_objects_are_compared_whatever_their_order_and_place():
    assert shares(TWO, [BLUE, RED])["scene"] == (1, 1)
    moved = [Thing("red", "circle", "small", "top left"), Thing("blue", "star", "large", "bottom right")]
    assert shares(TWO, moved)["scene"] == (0, 1), "below is not right of: the larger distance decides, ties go down"
    moved = [Thing("red", "circle", "small", "bottom left"), Thing("blue", "star", "large", "right")]
    assert shares(TWO, moved)["scene"] == (1, 1), "a caption of several objects says relations, no places"
    swapped = [Thing("red", "circle", "small", "right"), Thing("blue", "star", "large", "left")]
    found = shares(TWO, swapped)
    assert found["colour"] == (2, 2) and found["relation"] == (0, 1) and found["scene"] == (0, 1)
    assert found["position"] == (0, 0)


def test_what_is_missing_or_too_many_is_wrong():
    found = shares(TWO, [RED])
    assert found["colour"] == found["shape"] == (1, 2)
    assert found["relation"] == (0, 1) and found["count"] == (0, 1) and found["background"] == (1, 1)
    found = shares(TWO, [RED, BLUE, Thing("green", "heart", "small", "bottom")], "black")
    assert found["colour"] == (2, 2) and found["count"] == (0, 1) and found["background"] == (0, 1)


def test_a_lone_object_has_a_place():
    wanted = Scene("white", (RED,)).attributes()
    assert shares(wanted, [RED])["position"] == (1, 1)
    assert shares(wanted, [Thing("red", "circle", "small", "top")])["position"] == (0, 1)
    assert shares(wanted, [])["scene"] == (0, 1)


@pytest.mark.slow
@pytest.mark.sampled(3)
def test_the_probe_reads_real_scenes(tmp_path):
    _, on_real = scenes_probe.scenes_probe(32, 3, tmp_path)
    assert on_real > 0.99


@pytest.mark.parametrize(("resolution", "max_objects"), [(32, 1), (64, 1), (32, 3)])
def test_a_probe_in_the_box_reads_the_scenes_of_today(tmp_path, monkeypatch, resolution, max_objects):
    monkeypatch.setattr(scenes_probe, "train_probe", None)
    probe, on_real = scenes_probe.scenes_probe(resolution, max_objects, tmp_path)
    rng = random.Random("others")
    scenes = [random_scene(rng, max_objects) for _ in range(200)]
    images = torch.stack([torch.from_numpy(np.array(each.render(resolution))).permute(2, 0, 1) for each in scenes])
    right = (read(probe, images) == torch.tensor([*map(label, scenes)])).all(1).double().mean().item()
    assert min(right, on_real) > 0.98
    assert not [*tmp_path.iterdir()]


def test_the_probe_is_kept_and_draws_from_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_probe, "NUM_SCENES", 256)
    monkeypatch.setattr(scenes_probe, "NUM_TESTS", 64)
    state = torch.get_rng_state()
    probe, on_real = scenes_probe.scenes_probe(16, 1, tmp_path)
    again, kept = scenes_probe.scenes_probe(16, 1, tmp_path)
    assert kept == on_real
    assert all(map(torch.equal, probe.state_dict().values(), again.state_dict().values()))
    assert torch.equal(state, torch.get_rng_state())
