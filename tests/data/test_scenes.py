import random

import numpy as np
import pytest

from trainer.data.scenes import (
    BACKGROUNDS,
    COLOURS,
    JITTER,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    place,
    random_scene,
    relation,
)

EVERY_SHAPE = [(shape, size, position) for shape in SHAPES for size in SIZES for position in POSITIONS]


def drawn(scene, resolution):
    """(H, W) share of each pixel that the only thing covers, read from its colours."""
    thing, ground = np.array(COLOURS[scene.things[0].colour], float), np.array(BACKGROUNDS[scene.background], float)
    pixels = np.asarray(scene.render(resolution), float)
    return ((pixels - ground) @ (thing - ground)) / ((thing - ground) @ (thing - ground))


@pytest.mark.parametrize("resolution", [32, 100])
def test_a_thing_stands_at_its_place_with_its_size(resolution):
    for shape, size, position in EVERY_SHAPE:
        cover = drawn(Scene("white", (Thing("blue", shape, size, position),)), resolution)
        rows, columns = (np.flatnonzero(cover.max(axis) > 0.5) for axis in (1, 0))
        width = (columns[-1] - columns[0] + 1) / resolution
        assert width == pytest.approx(SIZES[size], abs=0.06 + 1 / resolution)
        centre = (columns[0] + columns[-1] + 1) / 2 / resolution, (rows[0] + rows[-1] + 1) / 2 / resolution
        assert centre == pytest.approx(POSITIONS[position], abs=0.03 + 0.5 / resolution)
        assert cover.min() > -0.01 and cover.max() < 1.01


@pytest.mark.parametrize("size", [(64, 96), (120, 64)])
def test_in_a_rectangle_places_go_with_each_side_and_sizes_with_the_shorter(size):
    for shape, words, position in EVERY_SHAPE:
        cover = drawn(Scene("white", (Thing("blue", shape, words, position),)), size)
        assert cover.shape == size
        rows, columns = (np.flatnonzero(cover.max(axis) > 0.5) for axis in (1, 0))
        width = (columns[-1] - columns[0] + 1) / 64
        assert width == pytest.approx(SIZES[words], abs=0.06 + 1 / 64)
        centre = (columns[0] + columns[-1] + 1) / 2 / size[1], (rows[0] + rows[-1] + 1) / 2 / size[0]
        assert centre == pytest.approx(POSITIONS[position], abs=0.03 + 0.5 / 64)


def test_edges_are_smooth_and_resolutions_agree():
    scene = Scene("white", (Thing("blue", "circle", "large", "centre"),))
    areas = [drawn(scene, resolution).mean() for resolution in (16, 32, 64, 128)]
    exact = np.pi * (SIZES["large"] / 2) ** 2
    assert areas == pytest.approx([exact] * 4, rel=0.06)
    partial = (drawn(scene, 32) > 0.05) & (drawn(scene, 32) < 0.95)
    assert 20 < partial.sum() < 80


def test_shapes_and_sizes_can_be_told_apart_at_32_pixels():
    pictures = np.stack([drawn(Scene("white", (Thing("blue", *words),)), 32) for words in EVERY_SHAPE])
    difference = abs(pictures[:, None] - pictures[None]).sum((2, 3))
    assert difference[~np.eye(len(pictures), dtype=bool)].min() > 10  # pixels


def test_colours_are_far_apart():
    every = np.array([*COLOURS.values(), *BACKGROUNDS.values()], float)
    distance = np.linalg.norm(every[:, None] - every[None], axis=2) + 1000 * np.eye(len(every))
    assert distance.min() > 60
    assert not set(COLOURS) & set(BACKGROUNDS)


def test_captions_follow_the_grammar():
    red = Thing("red", "circle", "small", "top left")
    assert str(red) == "a small red circle"
    assert Scene("white", (red,)).captions() == (
        "a small red circle in the top left on a white background",
        "on a white background, a small red circle in the top left",
    )
    blue, green = Thing("blue", "square", "large", "top right"), Thing("green", "star", "small", "bottom left")
    two = "a small red circle left of a large blue square on a navy background"
    assert Scene("navy", (red, blue)).captions()[0] == two
    assert Scene("navy", (red, blue, green)).captions() == (
        "a small red circle left of a large blue square and above a small green star on a navy background",
        "a small red circle in the top left, a large blue square in the top right and "
        "a small green star in the bottom left on a navy background",
        "on a navy background, a small red circle in the top left, a large blue square in the top right and "
        "a small green star in the bottom left",
    )
    assert place(Thing("pink", "heart", "small", "top")) == "at the top"
    assert place(Thing("pink", "heart", "small", "left")) == "on the left"
    assert place(Thing("pink", "heart", "small", "centre")) == "in the centre"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("left", "right", "left of"),
        ("bottom right", "left", "right of"),
        ("top", "bottom left", "above"),
        ("bottom", "top", "below"),
        ("top right", "bottom right", "above"),
    ],
)
def test_relations_are_true(one, other, said):
    assert relation(Thing("red", "star", "small", one), Thing("red", "star", "small", other)) == said


def test_random_scenes_use_every_word_alike_and_never_touch():
    rng = random.Random(0)
    scenes = [random_scene(rng, 3) for _ in range(3000)]
    counts = np.bincount([len(scene.things) for scene in scenes])
    assert (abs(counts[1:] - 1000) < 120).all() and len(counts) == 4
    alone = [scene.things[0] for scene in scenes if len(scene.things) == 1]
    for word, vocabulary in [("colour", COLOURS), ("shape", SHAPES), ("size", SIZES), ("position", POSITIONS)]:
        used = [getattr(thing, word) for thing in alone]
        expected = len(alone) / len(vocabulary)
        assert all(abs(used.count(each) - expected) < 5 * expected**0.5 for each in vocabulary)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    for scene in scenes:
        for i, thing in enumerate(scene.things):
            assert max(map(abs, thing.jitter)) <= JITTER
            assert thing.colour != scene.background
            for other in scene.things[:i]:
                apart = np.abs(np.subtract(POSITIONS[thing.position], POSITIONS[other.position])).max()
                assert apart >= (SIZES[thing.size] + SIZES[other.size]) / 2


def test_no_pixel_belongs_to_two_things():
    rng = random.Random(2)
    for scene in (random_scene(rng, 3) for _ in range(400)):
        covers = [drawn(Scene(scene.background, (thing,)), 64) for thing in scene.things]
        assert sum(cover > 0.1 for cover in covers).max() == 1


def test_relations_and_places_describe_the_picture_at_once():
    """What a caption says of two things holds between their centres, jitter included."""
    rng = random.Random(1)
    for scene in (random_scene(rng, 3) for _ in range(500)):
        first, *others = scene.things
        for other in others:
            (x, y), (u, v) = first.centre, other.centre
            holds = {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}
            assert holds[relation(first, other)]
