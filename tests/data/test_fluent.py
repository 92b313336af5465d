import numpy as np
import pytest
from PIL import Image

from trainer.data.build import fit
from trainer.data.emoji import Emoji
from trainer.data.fluent import Fluent
from trainer.errors import UserError

CODES = ("1f34e", "1f44b", "1f44b-1f3fd", "2764-fe0f", "1f3f4-e0067_e0062")  # the last has no name


@pytest.fixture
def package(tmp_path):
    """As npm installs it, with a red disc on nothing for each picture."""
    root = tmp_path / "node_modules" / "@lobehub" / "fluent-emoji-3d"
    (root / "assets").mkdir(parents=True)
    rows, columns = np.mgrid[:32, :32] - 15.5
    disc = np.where((rows**2 + columns**2 < 100)[..., None], (220, 20, 20, 255), (0, 0, 0, 0)).astype(np.uint8)
    for code in CODES:
        Image.fromarray(disc).save(root / "assets" / f"{code}.webp", lossless=True)
    return root


def test_captions_and_concepts_are_those_of_twemoji(package):
    twemoji = {item.key.removesuffix(".png"): item for item in Emoji(skin_tones=True).items()}
    items = Fluent(str(package), skin_tones=True).items()
    assert [item.key for item in items] == ["1f34e.webp", "1f44b-1f3fd.webp", "1f44b.webp", "2764-fe0f.webp"]
    for item in items:
        same = twemoji[item.key.removesuffix(".webp").removesuffix("-fe0f")]
        assert (item.captions, item.concept, item.attributes) == (same.captions, same.concept, same.attributes)
    assert [item.key for item in Fluent(str(package)).items()] == ["1f34e.webp", "1f44b.webp", "2764-fe0f.webp"]


def test_pictures_are_on_white(package):
    apple = np.asarray(fit(Fluent(str(package)).items()[0].load(16), 16)).astype(int)
    assert (apple[0, 0] == 255).all() and apple[8, 8, 0] > 200 and apple[8, 8, 1:].max() < 40


def test_the_package_is_found_where_npm_puts_it(package, tmp_path, monkeypatch):
    below = tmp_path / "project" / "runs"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert Fluent().folder == package / "assets"
    assert Fluent(str(package / "assets")).folder == package / "assets"
    assert Fluent().fingerprint() == Fluent(str(package)).fingerprint() != Fluent(skin_tones=True).fingerprint()


def test_other_pictures_of_the_same_names_are_other_data(package):
    before = Fluent(str(package)).fingerprint()
    Image.new("RGBA", (64, 64)).save(package / "assets" / "1f34e.webp")
    assert Fluent(str(package)).fingerprint() != before


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="npm install @lobehub/fluent-emoji-3d"):
        Fluent()
    with pytest.raises(UserError, match=f"not in data.source.path={tmp_path}: npm install"):
        Fluent(str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        Fluent(str(tmp_path / "nothing"))
