"""Files that would fill the memory, never end, start a program or lead out of the data set."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib

import pytest
from PIL import EpsImagePlugin, Image

from trainer.data import files
from trainer.data.cache import open_cache
from trainer.data.folder import Folder
from trainer.data.webdataset import WebDataset
from trainer.errors import UserError


def encoded(kind="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, kind)
    return content.getvalue()


def large_png(width, height):
    """A PNG of black pixels, a thousandth of their bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "good.png").write_bytes(encoded())
    (root / "good.txt").write_text("a red square")
    return root


def cached(source, tmp_path):
    cache = open_cache(source, 8, tmp_path / "cache")
    return len(cache.images), (cache.folder / "skipped.txt").read_text()


def test_a_pipe_named_as_a_picture_or_a_caption_is_not_opened(folder, tmp_path, capsys):
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.txt")
    os.symlink("/dev/zero", folder / "zero.png")
    assert cached(Folder(str(folder)), tmp_path) == (1, "")
    assert "pipe.png is no regular file: left out" in capsys.readouterr().err
    with pytest.raises(OSError, match="no regular file"):
        files.open_image(str(folder / "pipe.png"), 8)


def test_a_pipe_named_as_a_tar_or_metadata_is_not_opened(folder, tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"no \.tar file"):
        WebDataset(str(tmp_path)).items().__next__()
    os.mkfifo(folder / "metadata.jsonl")
    assert cached(Folder(str(folder)), tmp_path) == (1, "")


def test_a_picture_of_too_many_pixels_is_skipped_and_told(folder, tmp_path):
    (folder / "large.png").write_bytes(large_png(13_000, 13_000))
    (folder / "large.txt").write_text("black")
    count, skipped = cached(Folder(str(folder)), tmp_path)
    assert count == 1
    assert "large.png" in skipped and "13000 x 13000 pixels, more than the" in skipped


def test_a_large_jpeg_is_reduced_while_it_is_read(folder, tmp_path):
    Image.new("RGB", (9000, 8000)).save(folder / "good.png", "JPEG", quality=1)
    assert 9000 * 8000 > files.MAX_PIXELS
    assert cached(Folder(str(folder)), tmp_path) == (1, "")


@pytest.mark.parametrize("name", ["e.jpg", "e.png", "e.tif"])
def test_postscript_is_not_run_whatever_its_name(folder, tmp_path, monkeypatch, name):
    def ghostscript(*_, **__):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    (folder / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    (folder / "e.txt").write_text("none")
    count, skipped = cached(Folder(str(folder)), tmp_path)
    assert count == 1 and "cannot identify" in skipped


def test_captions_and_lines_have_a_limit(folder, monkeypatch):
    monkeypatch.setattr("trainer.data.folder.MAX_TEXT", 100)
    monkeypatch.setattr("trainer.data.tables.MAX_TEXT", 100)
    (folder / "good.txt").write_text("x" * 101)
    with pytest.raises(UserError, match=r"good\.txt: 101 bytes; expected captions, at most 100"):
        list(Folder(str(folder)).items())
    (folder / "metadata.jsonl").write_text("x" * 101)
    with pytest.raises(UserError, match=r"metadata\.jsonl: a line of more than 100 letters"):
        Folder(str(folder)).items()


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for name, size, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, content or io.BytesIO(bytes(size)))
    return WebDataset(str(path))


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.json"])
def test_a_member_of_a_tar_has_a_limit(tmp_path, monkeypatch, name):
    for limit in ("MAX_BYTES", "MAX_TEXT"):
        monkeypatch.setattr(f"trainer.data.webdataset.{limit}", 2**20)
    source = tar_of(tmp_path / "a.tar.gz", (name, 2**20 + 1, None))
    with pytest.raises(UserError, match=rf"a\.tar\.gz, {name}: 1,048,577 bytes, more than the 1,048,576"):
        list(source.items())


def test_what_is_neither_picture_nor_caption_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.webdataset.MAX_BYTES", 2**20)
    png = encoded()
    source = tar_of(
        tmp_path / "a.tar.gz",
        ("a.mp4", 2**22, None),
        ("a.png", len(png), io.BytesIO(png)),
        ("a.txt", 3, io.BytesIO(b"red")),
    )
    assert [item.captions for item in source.items()] == [("red",)]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_a_tar_have_a_limit(tmp_path, kind):
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 2**21
    (tmp_path / "a.tar").write_bytes(header.tobuf() + bytes(2**21 + 2**10))
    with pytest.raises(UserError, match=r"a header of 2,097,152 bytes"):
        list(WebDataset(str(tmp_path / "a.tar")).items())


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "sub/../../secret.png", "link.png", "pipe.png"])
def test_the_path_in_a_table_stays_within_the_data(folder, tmp_path, path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from trainer.data.parquet import Parquet

    (tmp_path / "secret.png").write_bytes(encoded())
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "sub").mkdir()
    table = pyarrow.table({"image": [{"bytes": None, "path": path}], "text": ["red"]})
    parquet.write_table(table, folder / "a.parquet")
    for given in (folder, folder / "a.parquet"):
        with pytest.raises(UserError, match=r"a\.parquet, row 1: .* is no file within"):
            list(Parquet(str(given)).items())
