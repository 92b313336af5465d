"""The key of a cache is what its files hold: the same files staged elsewhere, with other times, are the same cache."""

import os
import shutil

import pytest

from trainer.data import contents
from trainer.data.cache import open_cache
from trainer.data.files import find_files
from trainer.data.folder import Folder
from trainer.process import caches


@pytest.fixture
def reads(monkeypatch, tmp_path):
    """The files that are read."""
    monkeypatch.setattr(caches, "root", lambda: tmp_path / "home")
    honest, read = contents._hash, []
    monkeypatch.setattr(contents, "_hash", lambda file: read.append(os.path.basename(file)) or honest(file))
    return read


def stamp(folder):
    return contents.stamp(find_files(folder))


def test_a_copy_with_other_times_is_the_same(tmp_path, reads):
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.bin").write_bytes(bytes([number]) * 100)
    first = stamp(tmp_path / "a")
    assert stamp(tmp_path / "a") == first and len(reads) == 3, "read once"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert stamp(tmp_path / "b") == first and len(reads) == 3, "the times are those of the original"
    for file in (tmp_path / "b").iterdir():
        os.utime(file, ns=(5, 5))
    assert stamp(tmp_path / "b") == first and len(reads) == 6
    (tmp_path / "b" / "1.bin").write_bytes(bytes([7]) * 100)
    assert stamp(tmp_path / "b") != first, "as long as it was, and not the same"
    (tmp_path / "b" / "1.bin").rename(tmp_path / "b" / "4.bin")
    assert stamp(tmp_path / "b") not in (first, stamp(tmp_path / "a"))


def test_one_more_large_file_is_read_alone(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(contents, "_LARGE", 1000)
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.tar").write_bytes(bytes([number]) * 2000)
    first = stamp(tmp_path / "a")
    (tmp_path / "a" / "3.tar").write_bytes(bytes(3000))
    assert stamp(tmp_path / "a") != first
    assert reads[3:] == ["3.tar"]


def test_where_nothing_can_be_kept_all_is_read_again(tmp_path, reads):
    (tmp_path / "home").write_text("a file")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.bin").write_bytes(b"x")
    assert stamp(tmp_path / "a") == stamp(tmp_path / "a")
    assert len(reads) == 2


def test_data_staged_without_their_times_are_not_decoded_again(tmp_path, write_image):
    for number in range(4):
        write_image(tmp_path / "a" / f"{number}.png", number)
        (tmp_path / "a" / f"{number}.txt").write_text(f"thing {number}")
    cache = open_cache(Folder(str(tmp_path / "a")), 8, tmp_path / "cache")
    shutil.copytree(tmp_path / "a", tmp_path / "staged", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "a")
    assert open_cache(Folder(str(tmp_path / "staged")), 8, tmp_path / "cache").folder == cache.folder
