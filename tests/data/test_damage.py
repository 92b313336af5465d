"""The image cache is damaged: by another process while a run reads it, or before."""

import json
import os
import pickle
import re
import shutil
import zlib
from itertools import islice

import numpy as np
import pytest

from tests.runs.test_resume import SMALL, start
from trainer.data import checksums
from trainer.data.cache import open_cache
from trainer.data.rows import Rows
from trainer.errors import UserError
from trainer.runs import checkpoint

LONG = [*SMALL, "kimg=100", "callbacks.checkpoint.times=1000", "gpus_per_node=0", "run_dir=run"]


def damage(folder, why):
    return rf"{folder}: damaged cache \({why}\); delete this folder, it is built anew"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_whose_cache_is_cut_short_ends_in_one_line(tmp_path, num_workers):
    process = start(tmp_path, *LONG, f"data.num_workers={num_workers}")
    try:
        while not any(tmp_path.glob("run/checkpoints/kimg*.ckpt")):
            assert process.poll() is None, (tmp_path / "output.txt").read_text()
        (images,) = tmp_path.glob("cache/data/*/images.npy")
        os.truncate(images, 4096)
        code = process.wait(timeout=60)
    finally:
        process.kill()
    words = (tmp_path / "output.txt").read_text()
    assert code == 2, words
    line = damage(images.parent, "images.npy has been cut short")
    assert re.search(rf"^\S*{line}$", words, re.M), words
    assert "Traceback" not in words and "shared memory" not in words
    end = json.loads((tmp_path / "run/end.json").read_text())
    assert end["state"] == "failed" and re.fullmatch(line, end["reason"]) and "traceback" not in end
    assert checkpoint.read(checkpoint.newest(tmp_path / "run"))["images_seen"] > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_end_with_the_line(module, plain, num_workers):
    data = module(plain(400), num_workers=num_workers)
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    folder = data.train.cache.folder
    os.truncate(folder / "images.npy", 4096)
    with pytest.raises(UserError) as caught:
        list(islice(batches, 50))
    if num_workers:
        loader._iterator._shutdown_workers()  # as Lightning does; else the collector waits for them in a later test
    assert re.fullmatch(damage(folder, "images.npy has been cut short"), str(caught.value))


def test_a_cache_that_is_removed_is_read_to_the_end(module, plain, pixels):
    data = module(plain(50))
    batches = iter(data.train_dataloader())
    (data.train.cache.folder / "images.npy").unlink()
    for batch in islice(batches, 20):
        for image, caption in zip(batch.image, batch.caption.tolist(), strict=True):
            assert (image.permute(1, 2, 0).numpy() == np.asarray(pixels(caption, 8))).all()


def test_rows_are_those_of_an_array(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    np.save(tmp_path / "images.npy", array)
    rows = Rows(tmp_path / "images.npy")
    assert len(rows) == 20 and rows.shape == array.shape and rows.dtype == array.dtype
    for index in (
        3,
        np.int64(19),
        slice(None),
        slice(2, 15, 3),
        slice(-4, None),
        slice(3, 3),
        np.array([[7, 7], [0, 19]]),
        [5, 2],
    ):
        assert (rows[index] == array[index]).all() and rows[index].shape == array[index].shape
    assert rows[np.array([], np.int64)].shape == (0, 4, 4, 3)
    assert (np.asarray(rows) == array).all() and (pickle.loads(pickle.dumps(rows))[4] == array[4]).all()
    rows[1][:] = 0  # what comes back is the reader's own
    assert (rows[1] == array[1]).all()
    for number in (-1, 20):
        with pytest.raises(IndexError):
            rows[number]


@pytest.mark.parametrize("array", [np.zeros((2, 4, 4, 3)), np.zeros((2, 4), np.uint8)])
def test_other_arrays_are_no_images(tmp_path, array):
    np.save(tmp_path / "images.npy", array)
    with pytest.raises(ValueError, match=r"images\.npy has an array"):
        Rows(tmp_path / "images.npy")


def test_readers_leave_no_file_open(tmp_path, plain):
    opened = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_cache(plain(), 8, tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= opened + 1


def flip(file, at):
    with open(file, "r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(("image", "among"), [(0, "0 to 340"), (341, "341 to 681"), (699, "682 to 699")])
def test_a_changed_byte_is_told(tmp_path, plain, image, among):
    folder = open_cache(plain(700), 32, tmp_path).folder  # blocks of 341
    open_cache(plain(700), 32, tmp_path)
    flip(folder / "images.npy", 128 + image * 3 * 32**2)
    why = f"images.npy has changed since it was written, among images {among}"
    with pytest.raises(UserError, match=damage(folder, why)):
        open_cache(plain(700), 32, tmp_path)
    shutil.rmtree(folder)
    open_cache(plain(700), 32, tmp_path)


def test_skipped_images_have_no_checksum(tmp_path, plain, monkeypatch):
    honest = plain.load

    def load(self, number, resolution):
        if number % 3 == 0:
            raise OSError("broken")
        return honest(self, number, resolution)

    monkeypatch.setattr(plain, "load", load)
    monkeypatch.setattr(checksums, "_BLOCK", 1000)  # of 5 images
    cache = open_cache(plain(700), 8, tmp_path)
    written = np.load(cache.folder / checksums.FILE)
    assert len(cache.images) == 466 and len(written) == 94 and written.dtype == np.uint32
    assert written[1] == zlib.crc32(cache.images[5:10].tobytes()) and written[-1] == zlib.crc32(cache.images[465:].data)
    open_cache(plain(700), 8, tmp_path)


def test_of_a_large_cache_a_part_is_compared(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(checksums, "_BLOCK", 192)
    monkeypatch.setattr(checksums, "_COMPARED", 192 * 10)
    cache = open_cache(plain(91), 8, tmp_path)
    written, read = np.load(cache.folder / checksums.FILE), []
    honest = Rows._read
    monkeypatch.setattr(Rows, "_read", lambda self, number, room: read.append(number) or honest(self, number, room))
    checksums.compare(cache.images, written)
    assert read == list(range(0, 91, 10))


def test_a_cache_of_before_has_no_checksums(tmp_path, plain):
    cache = open_cache(plain(), 8, tmp_path)
    (cache.folder / checksums.FILE).unlink()
    assert open_cache(plain(), 8, tmp_path).folder == cache.folder


def test_checksums_of_other_images(tmp_path, plain):
    folder = open_cache(plain(), 8, tmp_path).folder
    np.save(folder / checksums.FILE, np.zeros(7, np.uint32))
    with pytest.raises(UserError, match=damage(folder, "the checksums are not those of images.npy")):
        open_cache(plain(), 8, tmp_path)
