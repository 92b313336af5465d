"""Codes and latents of a data set: made once by the weights that they are named by, and read in place of images."""

import errno
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from trainer.data import encoded as encoded_file
from trainer.data.augment import Augment
from trainer.data.cache import open_cache
from trainer.data.encoded import Encoding, encoded
from trainer.errors import UserError

NUM = 150  # images, more than are encoded at once


class Tokenizer(nn.Module):
    num_codes = 300

    def __init__(self, seed=0):
        super().__init__()
        self.register_buffer("unused", torch.tensor(3, dtype=torch.int64))
        self.conv = nn.Conv2d(3, 2, kernel_size=4, stride=4, bias=False)
        nn.init.normal_(self.conv.weight, generator=torch.Generator().manual_seed(seed))
        self.calls = 0

    def latents(self, image):
        self.calls += 1
        return self.conv(image)

    def encode(self, image):
        return (self.latents(image)[:, 0].sigmoid() * 299).long()


def encoding(kind, seed=0):
    tokenizer = Tokenizer(seed)
    return Encoding(kind, tokenizer, tokenizer.encode if kind == "codes" else tokenizer.latents)


def images(cache):
    return torch.from_numpy(cache.images[:]).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize(("kind", "dtype", "shape"), [("codes", np.uint16, (2, 2)), ("latents", np.float16, (2, 2, 2))])
def test_they_are_what_the_tokenizer_makes_of_each_image(tmp_path, plain, kind, dtype, shape):
    cache, made = open_cache(plain(NUM), 8, tmp_path), encoding(kind)
    rows = encoded(cache, made)
    assert rows.dtype == dtype and rows.shape == (NUM, *shape)
    with torch.no_grad():
        expected = made.encode(images(cache)).numpy().astype(dtype)
    np.testing.assert_allclose(rows[:], expected, rtol=2e-3, atol=1e-3)
    if kind == "codes":
        assert len(np.unique(rows[:])) > 100 and (rows[:] == expected).all()


def test_they_are_made_once_for_each_tokenizer_and_kind(tmp_path, plain):
    cache, first = open_cache(plain(NUM), 8, tmp_path), encoding("codes")
    rows, calls = encoded(cache, first)[:], first.network.calls
    assert calls == 3
    again = encoding("codes")
    assert (encoded(cache, again)[:] == rows).all() and not again.network.calls
    assert (encoded(cache, encoding("codes", seed=1))[:] != rows).any()
    assert encoded(cache, encoding("latents")).dtype == np.float16
    assert len(list(cache.folder.glob("codes-*.npy"))) == 2


def test_what_stops_leaves_no_half_of_them(tmp_path, plain, monkeypatch):
    cache = open_cache(plain(NUM), 8, tmp_path)
    monkeypatch.setattr(encoded_file, "_AT_ONCE", 100)
    stopping = encoding("codes")
    encode = stopping.encode
    made = stopping._replace(encode=lambda image: encode(image) if len(image) == 100 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        encoded(cache, made)
    assert not list(cache.folder.glob("codes-*.npy")) and not list(cache.folder.glob("*.building*"))
    (killed := cache.folder / stopping.file.replace(".npy", ".building-0123456789ab")).touch()
    assert len(encoded(cache, stopping)) == NUM and not killed.exists()


def test_where_they_cannot_be_kept_a_line_says_so(tmp_path, plain, monkeypatch, capsys):
    cache, made = open_cache(plain(NUM), 8, tmp_path), encoding("codes")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert encoded(cache, made) is None
    told = capsys.readouterr().err
    assert re.fullmatch(r"\S+codes-\w+\.npy: No space left on device; codes are not kept, but made .* step\n", told)
    assert not list(cache.folder.glob("codes-*.npy")) and not list(cache.folder.glob("*.building*"))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def change(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, change, lambda file: file.with_suffix(".crc32").unlink()])
def test_damage_is_told_with_the_file_to_delete(tmp_path, plain, damage):
    cache, made = open_cache(plain(NUM), 8, tmp_path), encoding("codes")
    file = encoded(cache, made).file
    damage(file)
    with pytest.raises(UserError, match=r"codes-\w+\.npy: damaged cache .*delete this file"):
        encoded(cache, made)
    file.unlink()
    assert len(encoded(cache, made)) == NUM


def trained_by(module, made, rank=0, world_size=1):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    objective = SimpleNamespace(encoding=made)
    module.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, strategy=strategy, lightning_module=objective
    )
    return next(iter(module.train_dataloader()))


@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_a_batch_has_them_in_place_of_images(module, plain, kind):
    made, data = encoding(kind), module(plain(NUM))
    with_images, batch = trained_by(data, None), trained_by(data, made)
    assert torch.equal(batch.position, with_images.position) and torch.equal(batch.caption, with_images.caption)
    assert batch.image.shape == (8, 3, 0, 0) and len(batch) == 8
    step = batch.as_float()
    expected = made.encode(with_images.as_float().image)
    assert step.encoded.dtype == expected.dtype
    torch.testing.assert_close(step.encoded, expected, rtol=2e-3, atol=1e-3)
    assert torch.equal(step[2:4].encoded, step.encoded[2:4])
    halves = [trained_by(data, made, rank, 2).encoded for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), batch.encoded)


def test_of_images_that_change_they_are_not_kept(module, plain, capsys):
    made, data = encoding("codes"), module(plain(NUM), augment=Augment(crop=1))
    assert trained_by(data, made).encoded is None
    assert "data.augment changes the images: their codes are made anew in each step" in capsys.readouterr().err
    assert not list(data.train.cache.folder.glob("codes-*"))
