"""Data sets as people have them: names, places and gaps that no convention foresees."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import unicodedata

import pytest
from PIL import Image

from trainer.data.cache import open_cache
from trainer.data.files import braces
from trainer.data.folder import Folder
from trainer.data.parquet import Parquet
from trainer.data.webdataset import WebDataset
from trainer.errors import UserError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def png(colour="red"):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def put(root, **files):
    """Files by name; None is a picture."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if content is None else content if isinstance(content, bytes) else content.encode())


def captions(source):
    return {item.key: item.captions for item in source.items()}


def tar(path, *members, links=()):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.LNKTYPE, target
            archive.addfile(entry)
    return path


# Pictures without a caption -------------------------------------------------------------------------------------------


def test_pictures_without_a_caption_are_counted_and_five_named(root):
    put(root, **{f"{i}.png": None for i in range(8)}, **{"0.txt": "red"})
    with pytest.raises(UserError, match=r"^7 images without a caption: .*/1\.png, .*/5\.png, \.\.\.; write .*0\.txt"):
        Folder(str(root)).items()


EXPECTED = {
    "skip": {"cats/a_big-cat.png": None, "b.png": ("b",)},
    "empty": {"cats/a_big-cat.png": ("",), "b.png": ("b",)},
    "filename": {"cats/a_big-cat.png": ("a big cat",), "b.png": ("b",)},
    "folder": {"cats/a_big-cat.png": ("cats",), "b.png": ("b",)},
}


@pytest.mark.parametrize("rule", EXPECTED)
def test_what_to_do_with_them_is_one_rule_of_all_sources(root, tmp_path, capsys, rule):
    put(root, **{"cats/a_big-cat.png": None, "b.png": None, "b.txt": "b"})
    expected = {key: said for key, said in EXPECTED[rule].items() if said is not None}
    source = Folder(str(root), uncaptioned=rule)
    assert captions(source) == expected and len(source.items()) == len(expected)
    assert "1 images without a caption" in capsys.readouterr().err
    file = tar(tmp_path / "a.tar", ("b.png", png()), ("b.txt", b"b"), ("cats/a_big-cat.png", png()))
    assert set(captions(WebDataset(str(file), uncaptioned=rule)).values()) == set(expected.values())
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"bytes": png(), "path": None}, {"bytes": png(), "path": "cats/a_big-cat.png"}]
    parquet.write_table(pyarrow.table({"image": rows, "text": ["b", None]}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path / "a.parquet"), uncaptioned=rule)
    assert set(captions(source).values()) == set(expected.values())
    assert len(open_cache(source, 8, tmp_path / "cache").images) == len(source.items()) == len(expected)


def test_a_tar_counts_all_of_them_and_decodes_none_behind_the_first(tmp_path):
    file = tar(tmp_path / "a.tar", *((f"{i}.png", png()) for i in range(3)), ("3.png", png()), ("3.txt", b"three"))
    with pytest.raises(UserError, match=r"^3 images without a caption: .*sample 0, .*sample 2; pack a \.txt"):
        list(WebDataset(str(file)).items())
    with pytest.raises(UserError, match=r"^data\.source\.uncaptioned=no: expected one of error, skip"):
        WebDataset(str(file), uncaptioned="no")


def test_pictures_without_a_caption_are_concepts_of_their_own(root):
    put(root, **{"cats/a.png": None, "cats/b.png": None})
    assert len({item.concept for item in Folder(str(root), uncaptioned="folder").items()}) == 2


# Tables ---------------------------------------------------------------------------------------------------------------


def test_coco_captions(root, tmp_path):
    put(root, **{"train2017/1.jpg": None, "train2017/2.jpg": None})
    images = [{"id": 7, "file_name": "1.jpg"}, {"id": 9, "file_name": "2.jpg"}]
    said = [{"image_id": 9, "caption": "two"}, {"image_id": 7, "caption": "one "}, {"image_id": 7, "caption": "uno"}]
    put(root, **{"annotations/captions_train2017.json": json.dumps({"images": images, "annotations": said})})
    source = Folder(str(root / "train2017"), annotations=str(root / "annotations/captions_train2017.json"))
    assert captions(source) == {"1.jpg": ("one", "uno"), "2.jpg": ("two",)}
    (root / "annotations/captions_train2017.json").write_text('{"images": [{}], "annotations": []}')
    with pytest.raises(UserError, match=r"captions_train2017\.json: 'id' is not as COCO has it; expected"):
        source.items()


TABLES = {
    "metadata.json": json.dumps([{"image": "a.png", "caption": "red"}]),
    "metadata.csv": "file;prompt\r\na.png;red\r\n",
    "sub/metadata.jsonl": '{"filename": "../a.png", "label": "red"}',
    "../meta_cap.json": '{"a.png": {"caption": "red", "tags": "x"}}',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_under_usual_names(root, name):
    put(root, **{"a.png": None, name: TABLES[name]})
    source = Folder(str(root), annotations=str(root / name) if "meta_cap" in name else None)
    assert captions(source) == {"a.png": ("red",)}


def test_own_keys(root):
    put(root, **{"a.png": None, "metadata.jsonl": '{"pic": "a.png", "text": "no", "de": "rot"}'})
    assert captions(Folder(str(root), image_key="pic", caption_key="de")) == {"a.png": ("rot",)}
    with pytest.raises(UserError, match=r"line 1: no 'fr' among pic, text, de; say data\.source\.caption_key="):
        Folder(str(root), image_key="pic", caption_key="fr").items()


def test_a_near_miss_is_named(root):
    put(root, **{"a.png": None, "metadata.json1": "{}"})
    with pytest.raises(UserError, match=r"there is .*metadata\.json1: name it metadata\.jsonl"):
        Folder(str(root)).items()


def test_names_as_other_systems_write_them(root):
    names = ["train/0.png", "sub\\1.png", unicodedata.normalize("NFC", "café.png")]
    put(root, **{"train/0.png": None, "train/sub/1.png": None, "train/" + unicodedata.normalize("NFD", names[2]): None})
    put(root, **{"train/metadata.jsonl": "".join(json.dumps({"file_name": n, "text": n}) + "\n" for n in names)})
    assert sorted(said for (said,) in captions(Folder(str(root))).values()) == sorted(names)


def test_a_long_field_and_kohyas_suffix(root):
    put(root, **{"a.png": None, "metadata.csv": f"file_name,text\na.png,{'x' * 200_000}\n"})
    assert len(captions(Folder(str(root)))["a.png"][0]) == 200_000
    (root / "metadata.csv").unlink()
    put(root, **{"a.caption": "red"})
    assert captions(Folder(str(root))) == {"a.png": ("red",)}


# Pictures -------------------------------------------------------------------------------------------------------------


def test_all_suffixes_of_pictures(root, tmp_path, capsys):
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "ppm": "PPM", "tga": "TGA", "avif": "AVIF", "jp2": "JPEG2000"}
    for suffix, kind in kinds.items():
        Image.new("RGB", (8, 8), "red").save(root / f"{suffix}.{suffix}", kind)
        put(root, **{f"{suffix}.txt": "red"})
    put(root, **{"x.heic": "not read"})
    assert len(open_cache(Folder(str(root)), 8, tmp_path / "cache").images) == len(kinds)
    assert "1 pictures of a kind that is not read are left out, as " in capsys.readouterr().err


def test_pointers_of_git_lfs(root, tmp_path):
    put(root, **{"a.png": LFS, "a.txt": "red"})
    with pytest.raises(UserError, match=r"OSError: a Git LFS pointer in place of the file; run git lfs pull"):
        open_cache(Folder(str(root)), 8, tmp_path / "cache")
    put(root, **{"metadata.jsonl": LFS, "x/a.tar": LFS, "y/a.parquet": LFS})
    sources = [lambda: Folder(str(root)), lambda: WebDataset(str(root / "x"))]
    if pytest.importorskip("pyarrow"):
        sources.append(lambda: Parquet(str(root / "y")))
    for source in sources:
        with pytest.raises(UserError, match=r"a Git LFS pointer in place of the file; run git lfs pull"):
            list(source().items())


def test_skipped_pictures_have_a_line_each(root, tmp_path):
    put(root, **{"a.png": None, "a.txt": "a", "b\nc.png": "no picture", "b\nc.txt": "b"})
    listed = open_cache(Folder(str(root)), 8, tmp_path / "cache").folder / "skipped.txt"
    assert len(listed.read_text().splitlines()) == 1


# Tars -----------------------------------------------------------------------------------------------------------------


def test_names_with_several_dots(tmp_path):
    members = [("img.v1.0.png", "img.v1.0.txt"), ("c_0.15.png", "c_0.15.txt"), ("c_0.2.png", "c_0.2.txt")]
    members += [("10.image.png", "10.caption.txt"), ("11.seg.png", "11.txt", "11.jpg")]
    file = tar(tmp_path / "a.tar", *((n, png() if n[-1] == "g" else n.encode()) for m in members for n in m))
    found = [item.captions[0] for item in WebDataset(str(file)).items()]
    assert found == [m[1] for m in members]


def test_a_sample_twice_is_two(tmp_path):
    file = tar(tmp_path / "a.tar", ("0.png", png()), ("0.txt", b"one"), ("0.png", png("blue")), ("0.txt", b"two"))
    assert [item.captions for item in WebDataset(str(file)).items()] == [("one",), ("two",)]


def test_tars_joined_by_cat_and_links_are_told(tmp_path):
    one = tar(tmp_path / "a.tar", ("0.png", png()), ("0.txt", b"one"))
    (tmp_path / "b.tar").write_bytes(one.read_bytes() * 2)
    with pytest.raises(UserError, match=r"b\.tar: another tar follows the end of the first; join tars by tar -A"):
        list(WebDataset(str(tmp_path / "b.tar")).items())
    file = tar(tmp_path / "c.tar", ("0.png", png()), ("0.txt", b"one"), ("1.png", png()), links=[("1.txt", "0.txt")])
    with pytest.raises(UserError, match=r"1\.txt: a link to 0\.txt; pack the files themselves with tar --dereference"):
        list(WebDataset(str(file)).items())


def test_an_unordered_tar_is_told(tmp_path):
    file = tar(tmp_path / "a.tar", ("0.png", png()), ("1.png", png()), ("0.txt", b"one"), ("1.txt", b"two"))
    with pytest.raises(
        UserError, match=r"the image and the caption of 0 stand apart; pack it anew with tar --sort=name"
    ):
        list(WebDataset(str(file)).items())


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(3):
        tar(tmp_path / f"s-0000{number}.tar", ("x.png", png()), ("x.txt", str(number).encode()))
    for pattern, expected in {"s-{00001..00002}.tar": "12", "s-*.tar": "012", "s-{00000,00002}.tar": "02"}.items():
        assert "".join(item.captions[0] for item in WebDataset(f"~/{pattern}").items()) == expected
    with pytest.raises(UserError, match=r"s-00003\.tar: no such file or folder"):
        WebDataset("~/s-{00002..00003}.tar")
    with pytest.raises(UserError, match=r"nothing is called .*t-\*\.tar"):
        WebDataset("~/t-*.tar")
    assert braces("a{8..10}{x,y}") == ["a8x", "a8y", "a9x", "a9y", "a10x", "a10y"]


# Parquet --------------------------------------------------------------------------------------------------------------


def test_columns_of_paths_classes_and_nulls(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    put(tmp_path, **{"data/p/a.png": None})
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pyarrow.table({"image": ["p/a.png", None], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, tmp_path / "data/a.parquet")
    source = Parquet(str(tmp_path / "data/*.parquet"))
    assert [item.captions for item in source.items()] == [("dog",), ("cat",)]
    cache = open_cache(source, 8, tmp_path / "cache")
    assert len(cache.images) == 1 and "the row has no image" in (cache.folder / "skipped.txt").read_text()
    text = base64.b64encode(png()).decode()
    parquet.write_table(pyarrow.table({"image": [text], "text": ["red"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"row 1: image is text, .* and no path; if it is base64, store the bytes"):
        list(Parquet(str(tmp_path / "b.parquet")).items())


def test_an_edited_picture_of_equal_size_is_decoded_again(root):
    put(root, **{"a.png": None, "a.txt": "red"})
    before = Folder(str(root)).fingerprint()
    content = (root / "a.png").read_bytes()
    (root / "a.png").write_bytes(content[:-20] + bytes(20))
    assert Folder(str(root)).fingerprint() != before
