"""Two pictures of a sample: emoji of two designs, tables with sources, domains without pairs; how they are drawn."""

import json
import os
import shutil
from itertools import islice

import numpy as np
import pytest
import torch

from trainer.data.augment import Augment
from trainer.data.build import fit
from trainer.data.cache import open_cache
from trainer.data.emoji import Emoji
from trainer.data.folder import Folder
from trainer.data.openmoji import OpenMoji
from trainer.data.pairs import Domains, EmojiPairs, parted
from trainer.data.source import Item
from trainer.errors import UserError


@pytest.fixture(scope="module")
def outlined():
    return EmojiPairs(target="openmoji").items()


def test_emoji_are_joined_by_their_code_points(outlined):
    flat = {item.key: item for item in Emoji().items()}
    assert 1850 < len(outlined) <= len(flat)
    for item in outlined:
        source = flat[item.source.key]
        assert (item.captions, item.concept) == (source.captions, source.concept)
        assert item.key.removeprefix("openmoji/").lower().replace("-fe0f", "").removesuffix(".svg").lstrip(
            "0"
        ) == source.key.replace("-fe0f", "").removesuffix(".png").lstrip("0")
    assert outlined[0].attributes["source"] == "twemoji" and outlined[0].attributes["target"] == "openmoji"


def test_a_pair_shows_one_thing(outlined):
    """A red apple is red in both."""
    (apple,) = (item for item in outlined if item.source.key == "1f34e.png")
    for item in (apple, apple.source):
        middle = np.asarray(fit(item.load(64), 64)).astype(int)[24:48, 16:48].mean((0, 1))
        assert middle[0] > 150 and middle[1] < 110, middle


def test_captions_of_several_targets_end_with_the_style(outlined):
    items = EmojiPairs(target=["openmoji", "twemoji"]).items()
    assert len(items) == len(outlined) + len(Emoji().items())
    assert all(caption.endswith(", outlined") for item in items[:1800] for caption in item.captions)
    same = [item for item in items if item.attributes["target"] == "twemoji"]
    assert all(item.captions[0] == f"{item.source.captions[0]}, flat" for item in same)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"source": "noto"}, "data.source.source=noto: expected one of twemoji, fluent, openmoji"),
        ({"target": "twemoji"}, "expected another design than twemoji"),
        ({"target": []}, "expected another design"),
        ({"target": ["openmoji", "openmoji"]}, "expected another design"),
    ],
)
def test_designs_are_checked(options, line):
    with pytest.raises(UserError, match=line):
        EmojiPairs(**options)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="resvg-py, which is not installed"):
        OpenMoji()


@pytest.fixture
def folder(tmp_path, write_image):
    """Four pairs."""
    root = tmp_path / "pairs"
    for number in range(4):
        write_image(root / f"{number}.png", number)
        write_image(root / "from" / f"{number}.png", 100 + number)
    return root


def table(root, rows):
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(**more):
    return [{"file_name": f"{n}.png", "text": f"picture {n}", "source": f"from/{n}.png", **more} for n in range(4)]


def test_a_table_names_what_its_pictures_start_from(folder, tmp_path, pixels):
    table(folder, rows())
    cache = open_cache(Folder(str(folder)), 8, tmp_path / "cache")
    assert len(cache.images) == 4  # a source is no picture of its own, and needs no caption
    for number in range(4):
        assert (cache.images[number] == np.asarray(pixels(number, 8))).all()
        assert (cache.sources.images[number] == np.asarray(pixels(100 + number, 8))).all()
    assert (cache.sources.caption_ids == cache.caption_ids).all()
    table(folder, [{"pic_a" if key == "source" else key: value for key, value in row.items()} for row in rows()])
    again = open_cache(Folder(str(folder), source_key="pic_a"), 8, tmp_path / "cache")
    assert (again.sources.images[3] == cache.sources.images[3]).all()


def test_a_source_that_names_no_picture_is_what_it_was(folder):
    for source in ("flickr", "https://a.org/b.png", 3):
        table(folder, [row | {"source": source} for row in rows()])
        items = [*Folder(str(folder), uncaptioned="skip").items()]
        assert all(item.source is None and item.attributes["source"] == source for item in items)


def test_sources_that_are_not_there_are_one_line(folder, tmp_path):
    table(folder, [*rows()[:3], {**rows()[3], "source": "from/9.png"}])
    with pytest.raises(UserError, match=r"metadata.jsonl, line 4: there is no file .*from/9.png; correct source"):
        Folder(str(folder)).items()
    table(folder, rows())
    with pytest.raises(UserError, match=r"line 1: no 'start' among file_name, text, source; correct data.source.sour"):
        Folder(str(folder), source_key="start").items()
    table(folder, [*rows()[:3], {"file_name": "3.png", "text": "d"}])
    with pytest.raises(UserError, match=r"3.png: some pictures have a source, others none"):
        open_cache(Folder(str(folder), uncaptioned="skip"), 8, tmp_path / "cache")
    table(folder, rows())
    (folder / "from" / "2.png").write_text("torn")
    cache = open_cache(Folder(str(folder)), 8, tmp_path / "cache")
    assert len(cache.images) == len(cache.sources.images) == 3
    assert "2.png" in (cache.folder / "skipped.txt").read_text()


class Paired:
    """Item i starts from picture 100 + i, which has a caption of its own."""

    attribution = ""

    def __init__(self, count, pixels, pairs=True):
        self.count, self.pixels, self.pairs = count, pixels, pairs

    def fingerprint(self):
        return f"{self.count}"

    def items(self):
        def load(number):
            return lambda resolution: self.pixels(number, resolution)

        sources = [Item(f"s{i}", (f"source {i}",), f"{i}", load(100 + i)) for i in range(self.count)]
        return [Item(f"{i}", (f"image {i}",), f"{i}", load(i), source=source) for i, source in enumerate(sources)]


def batches(data, count):
    """As they come to the device."""
    loaded = islice(iter(data.train_dataloader()), count)
    return [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in loaded]


def numbers(batch, pixels, count=100):
    """Which picture each is."""
    known = {np.asarray(pixels(i, 8)).tobytes(): i for i in (*range(count), *range(100, 100 + count))}
    return [known[image.permute(1, 2, 0).contiguous().numpy().tobytes()] for image in batch.image]


def test_a_source_comes_with_its_image_or_apart(module, pixels):
    data = module(Paired(24, pixels))
    for batch in batches(data, 6):
        assert [100 + n for n in numbers(batch, pixels)] == numbers(batch.other, pixels)
        assert torch.equal(batch.position, batch.other.position)
    apart = module(Paired(24, pixels), paired=False)
    drawn = batches(apart, 6)
    first = [n for batch in drawn for n in numbers(batch, pixels)]
    second = [n - 100 for batch in drawn for n in numbers(batch.other, pixels)]
    assert first == [n for batch in batches(data, 6) for n in numbers(batch, pixels)]
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 12
    assert sorted(second[:24]) == [*range(24)]  # an epoch has each once
    captions = apart.train.cache.captions
    for batch in drawn:
        told = [captions[number] for number in batch.other.caption.tolist()]
        assert told == [f"source {n - 100}" for n in numbers(batch.other, pixels)]
    apart.start_at(16)
    assert torch.equal(batches(apart, 1)[0].other.image, drawn[2].other.image)


def test_a_pair_is_augmented_alike(module, pixels):
    source = Paired(24, pixels)
    for item in (items := source.items()):
        object.__setattr__(item.source, "load", item.load)
    source.items = lambda: items
    for batch in batches(module(source, augment=Augment(flip=0.5, crop=2, colour=0.2)), 3):
        assert torch.equal(batch.image, batch.other.image)


def test_slices_floats_and_identities_have_the_sources(module, pixels):
    data = module(Paired(24, pixels))
    batch = batches(data, 1)[0]
    assert torch.equal(batch[2:5].other.image, batch.other.image[2:5])
    floats = batch.as_float().other
    assert floats.image.dtype == floats.condition.pooled.dtype == torch.float32
    torch.testing.assert_close(floats.image, batch.other.image.float() / 127.5 - 1)
    other = module(Paired(24, lambda number, size: pixels(number + 7 * (number == 123), size)), cache_dir=None)
    other.cache_dir = data.cache_dir.replace("cache", "other")
    other.prepare()
    assert data.changed(other.identity) == "other pixels, captions or order"


def test_damaged_sources_are_told(module, pixels):
    data = module(Paired(24, pixels))
    data.prepare()
    file = data.train.cache.folder / "source_images.npy"
    with open(file, "r+b") as content:
        content.seek(500)
        content.write(b"x")
    with pytest.raises(UserError, match=r"source_images.npy has changed since it was written"):
        module(Paired(24, pixels)).prepare()
    os.truncate(file, 300)
    with pytest.raises(UserError, match="damaged cache"):
        module(Paired(24, pixels)).prepare()


def test_domains_share_nothing_but_the_side_of_the_split(tmp_path, write_image, module, pixels):
    for name, count in (("horses", 7), ("zebras", 20)):
        for number in range(count):
            write_image(tmp_path / name / f"{number}.png", number + 100 * (name == "horses"))
    sides = [Folder(str(tmp_path / name), uncaptioned="filename") for name in ("horses", "zebras")]
    source = Domains(*sides, heldout=0.2)
    items = source.items()
    for heldout, (targets, sources) in {False: (16, 6), True: (4, 1)}.items():
        those = [item for item in items if item.heldout is heldout]
        assert len({item.key for item in those}) == targets and len({item.source.key for item in those}) == sources
        assert len(those) == targets
    for which in (lambda item: item.key, lambda item: item.source.key):
        assert not {which(i) for i in items if i.heldout} & {which(i) for i in items if not i.heldout}
    data = module(source, batch_size=4, heldout=0.2, split_seed=0)  # as conf/data/domains.yaml says it to both
    data.prepare()
    assert not data.paired and not data.heldout.pairs
    assert len(data.heldout) == 4 and len(set(data.heldout.captions)) == 1  # of the one source
    assert {n - 100 for b in batches(data, 8) for n in numbers(b.other, pixels)} == {
        int(item.source.key.removesuffix(".png")) for item in items if not item.heldout
    }
    with pytest.raises(UserError, match=r"data.paired=true: Domains has no pairs"):
        module(source, paired=True)
    assert parted(items, 0.0) == (items, [])
    shutil.rmtree(tmp_path / "horses")
