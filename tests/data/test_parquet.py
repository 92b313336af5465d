"""Parquet files in the ways that datasets store images, and every mistake in them."""

from __future__ import annotations

import io
import os
import re
import sys

import pytest
from PIL import Image

from trainer.data.cache import open_cache
from trainer.data.parquet import Parquet
from trainer.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet as files  # noqa: E402


def png(colour):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


RED, BLUE = png("red"), png("blue")


@pytest.fixture
def write(tmp_path):
    def table(columns, name="data/a.parquet", **options):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_table(pyarrow.table(columns), file, **options)
        return file

    return table


def colours(source, tmp_path):
    return open_cache(source, 8, tmp_path / "cache").images[:][:, 0, 0].tolist()


def test_image_struct_as_datasets_writes_it(write, tmp_path):
    images = [{"bytes": RED, "path": "a.png"}, {"bytes": BLUE, "path": None}]
    file = write({"image": images, "text": ["a red square", "a blue square"]})
    items = list(Parquet(str(file)).items())
    assert [item.captions for item in items] == [("a red square",), ("a blue square",)]
    assert [item.key for item in items] == ["a.parquet, row 1 (a.png)", "a.parquet, row 2"]
    assert colours(Parquet(str(file)), tmp_path) == [[255, 0, 0], [0, 0, 255]]


def test_raw_bytes_lists_of_captions_and_concepts_under_other_names(write, tmp_path):
    captions, concepts = [["a red square", "red"], ["a blue square"]], [0, 1]
    write({"picture": [RED, BLUE], "caption": captions, "concept": concepts, "more": [1, 2]})
    source = Parquet(str(tmp_path / "data"), image_column="picture", caption_column="caption")
    items = list(source.items())
    assert [item.captions for item in items] == [("a red square", "red"), ("a blue square",)]
    assert [item.concept for item in items] == ["0", "1"]
    assert colours(source, tmp_path) == [[255, 0, 0], [0, 0, 255]]


def test_paths_beside_the_file(write, tmp_path):
    file = write({"image": [{"bytes": None, "path": "sub/a.png"}], "text": ["red"]})
    (file.parent / "sub").mkdir()
    (file.parent / "sub" / "a.png").write_bytes(RED)
    assert colours(Parquet(str(file)), tmp_path) == [[255, 0, 0]]


def test_all_files_below_a_folder_in_order_with_their_number_of_rows(write, tmp_path):
    write({"image": [RED] * 300, "text": ["red"] * 300}, name="data/b.parquet", row_group_size=70)
    write({"image": [BLUE], "text": ["blue"]}, name="data/a/z.parquet")
    (tmp_path / "data" / "README.md").write_text("not data")
    items = Parquet(str(tmp_path / "data")).items()
    assert len(items) == 301
    assert [item.captions[0] for item in items] == ["blue"] + ["red"] * 300
    assert list(items)[300].key.endswith("b.parquet, row 300")


WRONG = {
    "no image column": (
        {"photo": [RED], "text": ["red"]},
        "a.parquet: no column 'image' among photo, text; set data.source.image_column=",
    ),
    "no caption column": (
        {"image": [RED], "said": ["red"]},
        "a.parquet: no column 'text' among image, said; set data.source.caption_column=",
    ),
    "null caption": (
        {"image": [RED, RED], "text": ["red", None]},
        "1 image without a caption: {folder}/a.parquet, row 2; write",
    ),
    "empty caption": (
        {"image": [RED], "text": [""]},
        "1 image without a caption: {folder}/a.parquet, row 1; write one",
    ),
    "empty list": (
        {"image": [RED], "text": pyarrow.array([[]], pyarrow.list_(pyarrow.string()))},
        "1 image without a caption",
    ),
    "number for a caption": (
        {"image": [RED], "text": [4.5]},
        "a.parquet, row 1: caption is 4.5, a float; expected text",
    ),
    "number for an image": ({"image": [4], "text": ["red"]}, "row 1: image is a int; expected encoded image bytes"),
    "list for an image": ({"image": [[1, 2]], "text": ["red"]}, "row 1: image is a list; expected encoded image"),
    "base64": ({"image": ["iVBORw0KGgo" * 9], "text": ["red"]}, "row 1: image is text, iVBORw0KGgo"),
    "image that is elsewhere": (
        {"image": [{"bytes": None, "path": "b.png"}], "text": ["red"]},
        "a.parquet, row 1: there is no file {folder}/b.png; put it there or store the bytes of the image",
    ),
    "no row": (
        {"image": pyarrow.array([], pyarrow.binary()), "text": pyarrow.array([], pyarrow.string())},
        "1 parquet files without a row; expected images",
    ),
    "concept of two": ({"image": [RED], "text": ["red"], "concept": [[1]]}, "row 1: concept is [1], a list; expected"),
}


@pytest.mark.parametrize(("columns", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_content(write, columns, expected):
    file = write(columns)
    with pytest.raises(UserError, match=re.escape(expected.replace("{folder}", str(file.parent)))) as caught:
        list(Parquet(str(file)).items())
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_wrong_files(write, tmp_path):
    with pytest.raises(UserError, match=r"^data\.source\.path=no/such: no such file or folder"):
        Parquet("no/such")
    with pytest.raises(UserError, match=rf"^data\.source\.path={tmp_path}: no \.parquet file in this folder; give"):
        Parquet(str(tmp_path)).fingerprint()
    (tmp_path / "a.parquet").write_text("not a table")
    with pytest.raises(UserError, match=r"a\.parquet: not a whole parquet file \(.*\); fetch it again") as caught:
        Parquet(str(tmp_path / "a.parquet")).items()
    assert "\n" not in str(caught.value)


def test_damage_found_on_the_way(write):
    file = write({"image": [os.urandom(1000) for _ in range(100)], "text": ["red"] * 100}, compression="zstd")
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: not a whole parquet file"):
        list(Parquet(str(file)).items())


def test_pyarrow_is_needed_only_here(write, monkeypatch):
    file = write({"image": [RED], "text": ["red"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^data=parquet needs the package pyarrow: pip install -e '\.\[data\]'$"):
        Parquet(str(file)).items()


def test_fingerprint(write, tmp_path):
    file = write({"image": [RED], "text": ["red"]})
    before = Parquet(str(file)).fingerprint()
    assert Parquet(str(file)).fingerprint() == before
    assert Parquet(str(file), caption_column="caption").fingerprint() != before
    os.utime(file, ns=(1, 1))
    assert Parquet(str(file)).fingerprint() == before
    with open(file, "r+b") as content:
        content.write(b"x")  # as long as it was
    assert Parquet(str(file)).fingerprint() != before
