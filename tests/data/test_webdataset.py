"""WebDataset tars, and every mistake in them."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile

import pytest
from PIL import Image

from trainer.data.cache import open_cache
from trainer.data.webdataset import WebDataset
from trainer.errors import UserError


def encoded(colour, kind):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, kind)
    return content.getvalue()


RED, BLUE = encoded("red", "PNG"), encoded("blue", "BMP")


@pytest.fixture
def write(tmp_path):
    def tar(members, name="a.tar", mode="w"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, mode) as archive:
            for member, content in members.items():
                data = content if isinstance(content, bytes) else content.encode()
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return file

    return tar


SAMPLES = {
    "./0001.png": RED,
    "./0001.txt": "a red square\nred\n",
    "./0001.json": json.dumps({"concept": 0, "width": 8}),
    "sub/0002.jpg.txt": "of no image",
    "sub/0003.json": json.dumps({"text": ["a blue square", "blue"], "concept": "blue"}),
    "sub/0003.BMP": BLUE,
    "sub/notes.txt": "no image, no sample",
}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_samples(write, tmp_path, name, mode):
    file = write(SAMPLES, name, mode)
    for source in (WebDataset(str(file)), WebDataset(str(tmp_path))):
        items = list(source.items())
        assert [item.captions for item in items] == [("a red square", "red"), ("a blue square", "blue")]
        assert [item.concept for item in items] == ["0", "blue"]
        assert items[1].key == f"{file.name}, sample sub/0003"
    assert open_cache(source, 8, tmp_path / "cache").images[:][:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_all_tars_below_a_folder_in_order(write, tmp_path):
    write({"x.png": RED, "x.txt": "second"}, "data/b.tar")
    write({"x.png": RED, "x.txt": "first"}, "data/a/z.tar")
    (tmp_path / "data" / "b.tar.md5").write_text("no tar")
    assert [item.captions[0] for item in WebDataset(str(tmp_path / "data")).items()] == ["first", "second"]


def test_another_caption_key(write):
    file = write({"x.png": RED, "x.json": json.dumps({"caption": "red"})})
    assert [item.captions for item in WebDataset(str(file), caption_key="caption").items()] == [("red",)]


WRONG = {
    "no caption": ({"x.png": RED}, "1 image without a caption: {file}, sample x; pack a .txt or a .json beside each"),
    "caption of another": ({"x.png": RED, "y.txt": "red"}, "1 image without a caption: {file}, sample x;"),
    "empty caption": ({"x.png": RED, "x.txt": "\n"}, "1 image without a caption: {file}, sample x;"),
    "broken json": ({"x.png": RED, "x.json": "{"}, "sample x: unreadable caption (Expecting property name"),
    "no object": ({"x.png": RED, "x.json": "[]"}, "sample x: .json is a list; expected an object with the caption"),
    "no key": (
        {"x.png": RED, "x.json": json.dumps({"said": "red", "id": 1})},
        "{file}, sample x: no 'text' among said, id of .json; set data.source.caption_key=",
    ),
    "wrong type": ({"x.png": RED, "x.json": json.dumps({"text": 3.5})}, "sample x: caption is 3.5, a float; exp"),
    "wrong concept": (
        {"x.png": RED, "x.txt": "red", "x.json": json.dumps({"concept": {}})},
        "sample x: concept is {}, a dict; expected text or a number",
    ),
    "other letters": ({"x.png": RED, "x.txt": b"caf\xe9"}, "sample x: unreadable caption ('utf-8' codec can't decode"),
}


@pytest.mark.parametrize(("members", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_samples(write, members, expected):
    file = write(members)
    with pytest.raises(UserError, match=re.escape(expected.replace("{file}", str(file)))) as caught:
        list(WebDataset(str(file)).items())
    assert "\n" not in str(caught.value)


def test_wrong_files(write, tmp_path):
    with pytest.raises(UserError, match=r"^data\.source\.path=no/such: no such file or folder"):
        WebDataset("no/such")
    with pytest.raises(UserError, match=rf"^data\.source\.path={tmp_path}: no \.tar file in this folder"):
        WebDataset(str(tmp_path)).fingerprint()
    file = write({"notes.txt": "no image"})
    with pytest.raises(UserError, match=r"no image; check the files of data\.source"):
        open_cache(WebDataset(str(file)), 8, tmp_path / "cache")
    file.write_text("not a tar")
    with pytest.raises(UserError, match=r"a\.tar: not a whole tar file \(.*\); fetch it again or remove it"):
        list(WebDataset(str(file)).items())


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_half_a_tar(write, name, mode):
    file = write({"x.png": os.urandom(20_000), "x.txt": "red", "y.png": os.urandom(20_000), "y.txt": "red"}, name, mode)
    os.truncate(file, file.stat().st_size // 2 - 300)
    with pytest.raises(UserError, match=rf"{name}: not a whole tar file \(.*\); fetch it again or remove it"):
        list(WebDataset(str(file)).items())


def test_fingerprint(write):
    file = write(SAMPLES)
    before = WebDataset(str(file)).fingerprint()
    assert WebDataset(str(file)).fingerprint() == before
    assert WebDataset(str(file), caption_key="caption").fingerprint() != before
    os.utime(file, ns=(1, 1))
    assert WebDataset(str(file)).fingerprint() == before
    with open(file, "r+b") as content:
        content.write(b"x")  # as long as it was
    assert WebDataset(str(file)).fingerprint() != before
