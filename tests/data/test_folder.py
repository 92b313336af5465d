"""Folders of pictures: both conventions, and every mistake in them told with file, line and remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from trainer.data import tables
from trainer.data.cache import open_cache
from trainer.data.folder import Folder
from trainer.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def write(root):
    """Pictures a.png (red) and sub/b.jpg (blue), and one more file."""

    def files(name: str | None = None, content: str = ""):
        (root / "sub").mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), "red").save(root / "a.png")
        Image.new("RGB", (12, 12), "blue").save(root / "sub/b.jpg")
        if name:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")

    return files


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


A = {"file_name": "a.png", "text": "a red square"}
B = {"file_name": "sub/b.jpg", "text": ["a blue square", "blue"], "concept": "blue", "width": 12}


def described(source):
    items = source.items()
    assert len(items) == len(list(items))
    return {item.key.removeprefix(f"{source.root}/"): (item.captions, item.concept, item.attributes) for item in items}


def test_jsonl(root, write, tmp_path):
    write("metadata.jsonl", lines(B, A) + "\n")
    expected = {
        "sub/b.jpg": (("a blue square", "blue"), "blue", {"width": 12}),
        "a.png": (("a red square",), "a red square", {}),
    }
    source = Folder(str(root))
    assert described(source) == expected
    assert list(described(source)) == ["sub/b.jpg", "a.png"]
    cache = open_cache(source, 8, tmp_path / "cache")
    assert np.abs(cache.images[:].astype(int) - np.array([(0, 0, 254), (255, 0, 0)])[:, None, None]).max() <= 2


def test_captions_of_a_machine_count_as_is_said(root, write):
    rows = [{"file_name": "a.png", "text": "mine"}, {"file_name": "sub/b.jpg", "text": "its"}]
    rows[1] |= {"machine": True, "score": -0.4}
    write("metadata.jsonl", "\n".join(map(json.dumps, rows)))
    both, one = ["mine", "its"], ["mine"]
    for machine, least, expected in ((True, None, both), (True, -0.5, both), (True, -0.3, one), (False, -0.5, one)):
        items = Folder(str(root), machine_captions=machine, min_score=least).items()
        assert [item.captions[0] for item in items] == expected
    plain = Folder(str(root)).fingerprint()
    assert len({plain, Folder(str(root), machine_captions=False).fingerprint(),
                Folder(str(root), min_score=-0.3).fingerprint()}) == 3  # fmt: skip
    rows[1]["score"] = "high"
    write("metadata.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"line 2: score is 'high'; expected a number, as trainer.caption writes it"):
        list(Folder(str(root), min_score=-0.3).items())


def test_csv(root, write):
    write("metadata.csv", 'file_name,text,concept\na.png,"a red, square",\nsub/b.jpg,a blue square,3\n')
    expected = {
        "a.png": (("a red, square",), "a red, square", {}),
        "sub/b.jpg": (("a blue square",), "3", {}),
    }
    assert described(Folder(str(root))) == expected


def test_metadata_in_each_subfolder(root, write):
    write("metadata.jsonl", lines(A))
    write("sub/metadata.jsonl", lines({"file_name": "b.jpg", "text": "blue"}))
    assert set(described(Folder(str(root)))) == {"a.png", "sub/b.jpg"}


def test_text_files(root, write):
    write("a.txt", "a red square\n\n  red \n")
    write("sub/b.txt", "\ufeffa blue square")
    expected = {
        "a.png": (("a red square", "red"), "a red square", {}),
        "sub/b.jpg": (("a blue square",), "a blue square", {}),
    }
    assert described(Folder(str(root))) == expected


def test_captions_keep_unicode_line_separators(root, write):
    write("metadata.jsonl", lines(A | {"text": "red\u2028square"}, B))
    assert described(Folder(str(root)))["a.png"][0] == ("red\u2028square",)


def test_links_are_followed_once_and_hidden_files_left_out(root, write, tmp_path):
    write("metadata.jsonl", lines(A, B))
    (root / "._c.png").write_bytes(b"left by another system")
    (root / ".cache").mkdir()
    (root / ".cache" / "d.png").write_bytes(b"")
    (root / "sub" / "circle").symlink_to(root)
    (tmp_path / "link").symlink_to(root)
    assert len(described(Folder(str(root)))) == 2
    assert len(described(Folder(str(tmp_path / "link")))) == 2


def test_a_dangling_link_is_a_corrupt_image(root, write, tmp_path, capfd):
    write("metadata.jsonl", lines(A, B, {"file_name": "gone.png", "text": "gone"}))
    (root / "gone.png").symlink_to(tmp_path / "nothing")
    assert len(open_cache(Folder(str(root)), 8, tmp_path / "cache").images) == 2
    assert "1 corrupt images skipped" in capfd.readouterr().err


WRONG = {
    "broken json": (
        lines(A) + '{"file_name": "sub/b.jpg", "text": blue}',
        'metadata.jsonl, line 2: broken JSON (Expecting value, column 36); expected one object a line, {"file_name": ',
    ),
    "no object": (lines(A) + "[1]", "metadata.jsonl, line 2: [1] is no object; expected {"),
    "mistyped file_name": (
        lines({"fil_name": "a.png", "text": "red"}),
        "metadata.jsonl, line 1: no 'file_name' among fil_name, text; rename 'fil_name' or say data.source.image_key=",
    ),
    "no text": (
        "\n" + lines({"file_name": "a.png", "said": "red"}),
        "line 2: no 'text' among file_name, said; say data.source.caption_key=, or write {",
    ),
    "number for a name": (lines(A | {"file_name": 3}), "line 1: file_name is 3; expected an image, relative to "),
    "missing image": (
        lines(A, B | {"file_name": "sub/c.jpg"}),
        "metadata.jsonl, line 2: there is no file {root}/sub/c.jpg; correct file_name or remove the line",
    ),
    "above the folder": (lines(A | {"file_name": "../x.png"}), "line 1: there is no file "),
    "number for a caption": (lines(A | {"text": 7.5}), "line 1: caption is 7.5, a float; expected text or"),
    "number among captions": (lines(A | {"text": ["red", 7.5]}), "line 1: caption is ['red', 7.5], a list; exp"),
    "null caption": (lines(A | {"text": None}, B), "1 image without a caption: {root}/metadata.jsonl, line 1; add to "),
    "no caption": (lines(A | {"text": []}), "2 images without a caption: {root}/metadata.jsonl, line 1, {root}/s"),
    "empty caption": (lines(A, B | {"text": ["", " "]}), "without a caption: {root}/metadata.jsonl, line 2; add to"),
    "image that no line names": (
        lines(A),
        "1 image without a caption: {root}/sub/b.jpg; add to {root}/metadata.jsonl, or say data.source.uncaptioned=s",
    ),
    "image twice": (
        lines(A, B, A),
        "metadata.jsonl, line 3: a.png has its captions in {root}/metadata.jsonl, line 1; write all captions of an",
    ),
    "concept of two": (lines(A | {"concept": ["x"]}), "line 1: concept is ['x'], a list; expected text or a number"),
}


@pytest.mark.parametrize(("content", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_metadata(root, write, content, expected):
    write("metadata.jsonl", content)
    with pytest.raises(UserError, match=re.escape(expected.replace("{root}", str(root)))) as caught:
        Folder(str(root)).items()  # told before the first image is decoded
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)


WRONG_CSV = {
    "no column": ("file_name,said\na.png,red\n", "metadata.csv, line 2: no 'text' among file_name, said; say data"),
    "unquoted comma": ("file_name,text\na.png,a red, square\n", "metadata.csv, line 2: more values than columns; put"),
    "value missing": ("file_name,text\na.png\n", "2 images without a caption: {root}/metadata.csv, line 2, {root}/su"),
    "empty": ("file_name,text\na.png,\n", "2 images without a caption: {root}/metadata.csv, line 2, "),
    "open quote": ('file_name,text\na.png,"red\n', "metadata.csv, line 2: broken CSV (unexpected end of data); put"),
    "no line": ("", "2 images without a caption: {root}/a.png, {root}/sub/b.jpg; add to "),
}


@pytest.mark.parametrize(("content", "expected"), WRONG_CSV.values(), ids=WRONG_CSV)
def test_wrong_csv(root, write, content, expected):
    write("metadata.csv", content)
    with pytest.raises(UserError, match=re.escape(expected.replace("{root}", str(root)))):
        Folder(str(root)).items()


def test_image_without_a_text_file(root, write):
    write("a.txt", "red")
    expected = f"1 image without a caption: {root}/sub/b.jpg; write {root}/a.txt and the like, or a metadata.jsonl"
    with pytest.raises(UserError, match=re.escape(expected)):
        Folder(str(root)).items()


def test_wrong_text_files(root, write):
    write("sub/b.txt", "blue")
    write("a.txt", " \n")
    with pytest.raises(UserError, match=re.escape(f"1 image without a caption: {root}/a.png; write")):
        list(Folder(str(root)).items())
    (root / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=re.escape(f"{root}/a.txt: not UTF-8 text; save it as UTF-8")):
        list(Folder(str(root)).items())


def test_wrong_paths(root, tmp_path):
    with pytest.raises(UserError, match=r"^data\.source\.path=no/such: no such file or folder; give the path"):
        Folder("no/such")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: a file; expected a folder of images"):
        Folder(str(tmp_path / "file"))
    (root / "notes.txt").write_text("no image here")
    with pytest.raises(UserError, match=rf"^data\.source\.path={root}: no image in it; expected \.png \.jpg"):
        Folder(str(root)).items()


def test_fingerprint_follows_the_files(root, write, tmp_path):
    write("metadata.jsonl", lines(A, B))
    seen = [Folder(str(root)).fingerprint()]

    def changed() -> bool:
        seen.append(Folder(str(root)).fingerprint())
        return seen[-1] not in seen[:-1]

    assert not changed()
    (root / "notes.txt").write_text("beside the point")
    assert not changed()
    os.utime(root / "a.png", ns=(1, 1))
    assert not changed()  # a copy has other times
    (root / "c.png").touch()
    assert changed()
    status = (root / "metadata.jsonl").stat()
    write("metadata.jsonl", lines(A, B).replace("red", "RED"))
    os.utime(root / "metadata.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed()  # by its content
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert not changed()  # where it lies is no matter
    shutil.copytree(root, tmp_path / "copy")
    root = tmp_path / "copy"
    assert not changed()


def test_fingerprint_of_text_files(root, write):
    write("a.txt", "red")
    before = Folder(str(root)).fingerprint()
    write("a.txt", "green")
    assert Folder(str(root)).fingerprint() != before


def test_many_files_are_listed_fast(root, monkeypatch):
    """A million files in seconds: the list costs a few microseconds a file, and nothing is opened."""
    for i in range(2_000):
        (root / f"{i}.jpg").touch()
    monkeypatch.setattr(tables, "lines", None)
    start = time.process_time()
    Folder(str(root)).fingerprint()
    assert time.process_time() - start < 1  # 0.02 s on an idle core
