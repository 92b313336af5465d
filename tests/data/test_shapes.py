import json

import numpy as np
import pytest

from trainer.data.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES
from trainer.data.shapes import Shapes, heldout_combinations
from trainer.errors import UserError


def pairs(item):
    return {(thing["colour"], thing["shape"]) for thing in item.attributes["objects"]}


def triples(item):
    return {(thing["size"], thing["position"], thing["shape"]) for thing in item.attributes["objects"]}


@pytest.fixture(scope="module", params=[1, 3])
def items(request):
    return list(Shapes(3000, max_objects=request.param, heldout=0.1).items())


def test_held_out_scenes_hold_combinations_never_seen_in_training(items):
    train, heldout = ([item for item in items if item.heldout is side] for side in (False, True))
    assert 0.08 < len(heldout) / len(items) < 0.12
    seen = {each for item in train for each in pairs(item) | triples(item)}
    assert all((pairs(item) | triples(item)) - seen for item in heldout)
    combinations = heldout_combinations(0)
    assert not seen & (combinations[0] | combinations[1])
    assert {each for item in heldout for each in pairs(item)} >= combinations[0]


def test_every_word_is_seen_in_training(items):
    things = [thing for item in items if not item.heldout for thing in item.attributes["objects"]]
    for word, vocabulary in [("colour", COLOURS), ("shape", SHAPES), ("size", SIZES), ("position", POSITIONS)]:
        assert {thing[word] for thing in things} == set(vocabulary)
    assert {item.attributes["background"] for item in items if not item.heldout} == set(BACKGROUNDS)


@pytest.mark.parametrize("seed", range(5))
def test_every_word_keeps_half_of_its_combinations(seed):
    colour_shape, style = heldout_combinations(seed)
    assert len(colour_shape) == 5 and len(style) == 11
    for combinations, vocabularies in [(colour_shape, (COLOURS, SHAPES)), (style, (SIZES, POSITIONS, SHAPES))]:
        every = np.prod([len(vocabulary) for vocabulary in vocabularies])
        for vocabulary in vocabularies:
            for word in vocabulary:
                assert sum(word in each for each in combinations) <= every / len(vocabulary) / 2
    assert heldout_combinations(seed) == (colour_shape, style)
    assert heldout_combinations(seed + 1) != (colour_shape, style)


def test_a_scene_is_a_pure_function_of_seed_and_number():
    few, many = Shapes(5).items(), Shapes(50).items()
    for i in (0, 4):
        assert few[i].captions == many[i].captions and few[i].attributes == many[i].attributes
        assert (np.asarray(few[i].load(32)) == np.asarray(many[i].load(32))).all()
    assert [item.captions for item in Shapes(20, seed=1).items()] != [item.captions for item in Shapes(20).items()]
    # The first caption, written down: a change of Python or of this code must not silently change the data.
    first = Shapes(1, max_objects=1).items()[0].captions
    assert first == ("a large purple triangle at the bottom on a white background",)


def test_attributes_are_json_and_agree_with_the_caption(items):
    for item in items[:200]:
        assert json.loads(json.dumps(item.attributes)) == item.attributes
        for thing in item.attributes["objects"]:
            assert f"a {thing['size']} {thing['colour']} {thing['shape']}" in item.captions[0]
        assert item.captions[0].endswith(f"on a {item.attributes['background']} background")


def test_paraphrases_are_further_captions():
    plain, more = Shapes(30).items(), Shapes(30, paraphrases=True).items()
    for one, several in zip(plain, more, strict=True):
        assert len(one.captions) == 1 and several.captions[:1] == one.captions
        assert len(several.captions) == (2 if len(one.attributes["objects"]) == 1 else 3)


def test_items_are_drawn_when_asked_for():
    many = Shapes(10**9).items()
    assert len(many) == 10**9 and many[10**9 - 1].key == "scene 999999999"
    with pytest.raises(IndexError):
        many[10**9]


def test_fingerprint_tells_every_option():
    options = [{}, {"num_images": 6}, {"max_objects": 1}, {"heldout": 0.5}, {"paraphrases": True}, {"seed": 1}]
    prints = [Shapes(**({"num_images": 5} | changes)).fingerprint() for changes in options]
    assert len(set(prints)) == len(options)
    assert prints[0] == Shapes(num_images=5).fingerprint()


@pytest.mark.parametrize("options", [{"max_objects": 0}, {"max_objects": 4}, {"num_images": 0}, {"heldout": 2.0}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match=rf"{next(iter(options))}="):
        Shapes(**options)


def test_pixels_agree_with_attributes():
    for item in Shapes(num_images=150).items():
        pixels = np.asarray(item.load(64), int)
        ground = BACKGROUNDS[item.attributes["background"]]
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == ground).all()
        for thing in item.attributes["objects"]:
            x, y = (int(64 * where) for where in POSITIONS[thing["position"]])
            assert (pixels[y, x] == COLOURS[thing["colour"]]).all(), item.captions
            assert all(thing[word] in item.captions[0] for word in ("colour", "shape", "size"))
