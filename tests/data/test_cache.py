import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from trainer.data import build, cache
from trainer.data.build import fit
from trainer.data.cache import open_cache
from trainer.data.source import Item
from trainer.errors import UserError
from trainer.process import progress


class Listed:
    attribution = ""

    def __init__(self, *items):
        self.listed = items

    def fingerprint(self):
        return "-".join(item.key for item in self.listed)

    def items(self):
        return iter(self.listed)


def item(key, captions=("a thing",), load=lambda resolution: Image.new("RGB", (8, 8)), **rest):
    return Item(key, captions, captions[0] if captions else "", load, **rest)


def test_images_captions_and_records_come_back(tmp_path, plain, pixels):
    built = open_cache(plain(700, num_captions=2), 8, tmp_path)  # more than one chunk
    assert built.images.shape == (700, 8, 8, 3) and built.images.dtype == np.uint8
    for i in (0, 511, 512, 699):
        assert (built.images[i] == np.asarray(pixels(i, 8))).all()
        ids = built.caption_ids[built.caption_starts[i] : built.caption_starts[i + 1]]
        assert [built.captions[k] for k in ids] == [f"caption {i} 0", f"caption {i} 1"]
    keys = [(record["key"], record["attributes"]["number"]) for record in built.records([699, 3])]
    assert keys == [("item 699", 699), ("item 3", 3)]
    assert (np.load(built.folder / "images.npy") == built.images[:]).all()  # a plain .npy for anyone


def test_equal_captions_have_one_number(tmp_path):
    built = open_cache(Listed(item("a", ("x", "y")), item("b", ("y",)), item("c", ("x",))), 8, tmp_path)
    assert built.captions == ["x", "y"]
    assert built.caption_ids.tolist() == [0, 1, 1, 0]


def test_built_once_and_again_when_source_or_resolution_change(tmp_path, plain):
    source = plain(20)
    folders = {open_cache(source, 8, tmp_path).folder for _ in range(2)}
    assert source.loads == 20 and len(folders) == 1
    folders |= {open_cache(source, 16, tmp_path).folder, open_cache(plain(21), 8, tmp_path).folder}
    assert len(folders) == 3
    assert not list(tmp_path.glob("*.building*"))


def test_corrupt_images_are_skipped_counted_and_listed(tmp_path, write_image, capsys):
    def broken(resolution):
        return Image.open(file)

    file = write_image(tmp_path / "a.png")
    file.write_bytes(file.read_bytes()[:60])
    built = open_cache(Listed(item("good"), item("bad one", load=broken), item("fine")), 8, tmp_path / "cache")
    assert [record["key"] for record in built.records(range(2))] == ["good", "fine"]
    listed = built.folder / "skipped.txt"
    assert f"1 corrupt images skipped, listed in {listed}" in capsys.readouterr().err
    assert listed.read_text().startswith("bad one\t")
    with pytest.raises(UserError, match="none of its 1 images can be read"):
        open_cache(Listed(item("bad one", load=broken)), 8, tmp_path / "cache")


def test_an_image_without_caption_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^photo 7\.png: image without a caption"):
        open_cache(Listed(item("fine"), item("photo 7.png", ())), 8, tmp_path)
    assert not list(tmp_path.glob("*.building*"))


def test_a_pickled_cache_is_its_path(tmp_path, plain):
    built = open_cache(plain(700), 8, tmp_path)
    pickled = pickle.dumps(built)
    assert len(pickled) < 1000
    assert (pickle.loads(pickled).images[:] == built.images[:]).all()


def slow_load(log, number, resolution):
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.02)
    return Image.new("RGB", (8, 8), (number, 0, 0))


def build_slowly(folder, log, results=None):
    source = Listed(*(item(str(i), load=partial(slow_load, log, i)) for i in range(20)))
    built = open_cache(source, 8, folder)
    if results is not None:
        results.put(built.images[:][:, 0, 0, 0].tolist())


def test_processes_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=build_slowly, args=(tmp_path, tmp_path / "log", results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [list(range(20))] * 3
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(20))


def test_a_killed_build_leaves_nothing_that_counts(tmp_path):
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=build_slowly, args=(tmp_path, log))
    process.start()
    while not log.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(tmp_path.glob("*.building*"))
    build_slowly(tmp_path, log)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert len(np.load(folder / "images.npy")) == 20


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_or_locked_disk_is_the_users_to_mend(tmp_path, plain, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(build, "save", fail)
    with pytest.raises(UserError, match=rf"{tmp_path}: {os.strerror(number)}; .*data.cache_dir="):
        open_cache(plain(), 8, tmp_path)
    assert not list(tmp_path.glob("*.building*"))


@pytest.mark.parametrize("limit", [1_000, 7_000])  # bytes: the pixels do not fit; the numbers of the captions do not
def test_a_file_that_cannot_grow_is_the_users_to_mend(tmp_path, limit):
    source = Listed(item("a", captions=("a",) * 1000), *map(item, "bcdefgh"))
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
    try:
        with pytest.raises(UserError, match=rf"{tmp_path}: File too large; free space or .*data\.cache_dir="):
            open_cache(source, 8, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert not list(tmp_path.glob("*.building*"))


def test_a_source_that_may_not_be_read_is_not_blamed_on_the_cache(tmp_path, plain, monkeypatch):
    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/metadata.jsonl")

    monkeypatch.setattr(plain, "items", denied)
    with pytest.raises(PermissionError) as caught:
        open_cache(plain(), 8, tmp_path)
    assert caught.value.filename == "/data/metadata.jsonl"


def test_a_place_that_cannot_be_a_folder(tmp_path, plain):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir="):
        open_cache(plain(), 8, tmp_path / "file" / "cache")


def test_a_bug_is_not_called_a_full_disk(tmp_path, plain, monkeypatch):
    def fail(*_):
        raise OSError(errno.EBADF, "bad file")

    monkeypatch.setattr(build, "save", fail)
    with pytest.raises(OSError, match="bad file"):
        open_cache(plain(), 8, tmp_path)


def test_progress_is_told_while_it_takes_long(tmp_path, plain, monkeypatch, capsys):
    now = iter(range(0, 1000, 8))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    folder = open_cache(plain(600), 8, tmp_path).folder
    assert f"caching {folder.name}: 512 of 600 images, 64/s" in capsys.readouterr().err


def test_a_damaged_cache_says_what_to_delete(tmp_path, plain):
    folder = open_cache(plain(), 8, tmp_path).folder
    for damage in (lambda: os.truncate(folder / "images.npy", 200), (folder / "concepts.npy").unlink):
        damage()
        with pytest.raises(UserError, match=f"{folder}: damaged cache .*; delete this folder"):
            open_cache(plain(), 8, tmp_path)


def test_sixteen_bits_keep_their_depth():
    deep = Image.fromarray(np.full((8, 8), 128 * 256, np.uint16))
    assert (np.asarray(fit(deep, 8)) == 128).all()


def test_a_reader_needs_no_right_to_write(tmp_path, plain, monkeypatch):
    open_cache(plain(), 8, tmp_path)
    monkeypatch.setattr(cache, "locked", None)
    open_cache(plain(), 8, tmp_path)


def test_transparency_lands_on_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (np.asarray(fit(clear, 8)) == 255).all()
    half = Image.new("LA", (8, 8), (0, 128))
    assert abs(np.asarray(fit(half, 8)).astype(int) - 127).max() <= 1
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 255])
    palette.info["transparency"] = 0
    assert (np.asarray(fit(palette, 8)) == 255).all()


def test_the_centre_square_is_kept_and_averaged():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 100
    assert abs(np.asarray(fit(Image.fromarray(wide), 8)).astype(int) - 100).max() == 0
    checks = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)
    assert abs(np.asarray(fit(Image.fromarray(checks), 8)).astype(int) - 100).max() <= 2


def test_a_turned_photo_stands_upright(tmp_path):
    turned = Image.new("RGB", (8, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 4))  # white above
    exif = turned.getexif()
    exif[0x0112] = 3  # camera held upside down
    turned.save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(fit(Image.open(tmp_path / "a.png"), 8))
    assert (upright[:4] == 0).all() and (upright[4:] == 255).all()


def test_records_are_json_lines(tmp_path, plain):
    built = open_cache(plain(3), 8, tmp_path)
    lines = (built.folder / "records.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {
        "key": "item 2",
        "captions": ["caption 2 0"],
        "concept": "concept 2",
        "attributes": {"number": 2},
        "heldout": None,
    }
