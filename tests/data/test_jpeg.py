"""What libjpeg-turbo decodes are the pixels that Pillow has, and what it cannot Pillow does."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from trainer.data import files, placed
from trainer.data.build import fit
from trainer.data.files import MAX_PIXELS, open_image
from trainer.data.jpeg import decoded

ORIENTATION = 0x0112


def picture(height=75, width=101, mode="RGB", seed=0):
    """Smooth, with an edge and noise: every step of a decoder has something to do."""
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([rows * 3, columns * 2, rows + columns], 2) % 256
    base[height // 3 :, : width // 2] = 255 - base[height // 3 :, : width // 2]
    noise = np.random.default_rng(seed).integers(-20, 20, base.shape)
    return Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_jpeg(content, resolution):
    return np.asarray(fit(open_image(io.BytesIO(content), resolution), resolution))


def by_pillow(content, resolution, monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(files, "decoded", lambda *given: None)
        return np.asarray(fit(open_image(io.BytesIO(content), resolution), resolution))


KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "4:2:2": {"subsampling": 1, "quality": 30},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True, "quality": 1},
    "restarts": {"restart_marker_blocks": 2},
    "kept as RGB": {"keep_rgb": True},
    "profile": {"icc_profile": b"none that is read"},
    "comment": {"comment": b"a picture"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("resolution", [101, 24, 9, [8, 12], [75, 101], 300])  # as it is, by 2, 4 and 8, enlarged
def test_the_pixels_of_pillow(options, mode, resolution, monkeypatch):
    if mode == "L":
        options = {key: value for key, value in options.items() if key not in ("subsampling", "keep_rgb")}
    content = saved(picture(mode=mode), **options)
    assert decoded(content, resolution, MAX_PIXELS) is not None
    found = by_jpeg(content, resolution)
    assert np.array_equal(found, by_pillow(content, resolution, monkeypatch))


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 9), (16, 16), (17, 257)])
def test_sizes_that_fill_no_block(size, monkeypatch):
    content = saved(picture(*size))
    for resolution in (1, 2, 3, 8):
        found = by_jpeg(content, resolution)
        assert np.array_equal(found, by_pillow(content, resolution, monkeypatch))


@pytest.mark.parametrize("way", range(1, 9))
def test_a_picture_on_its_side_is_turned(way, monkeypatch):
    exif = Image.Exif()
    exif[ORIENTATION] = way
    content = saved(picture(), exif=exif)
    assert (decoded(content, 24, MAX_PIXELS) is None) == (way != 1)
    found = by_jpeg(content, 24)
    assert np.array_equal(found, by_pillow(content, 24, monkeypatch))


def test_a_picture_on_its_side_by_xmp():
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = saved(picture(), xmp=packet)
    assert decoded(content, 24, MAX_PIXELS) is None


def test_what_pillow_has_to_read():
    png = io.BytesIO()
    picture().save(png, "PNG")
    print_colours = saved(picture(mode="CMYK"))
    for content in (b"", b"\xff\xd8", png.getvalue(), print_colours):
        assert decoded(content, 24, MAX_PIXELS) is None
    assert decoded(saved(picture()), 24, 75 * 101 - 1) is None, "too large"


def test_damage_is_told_or_passed_over_as_before(monkeypatch):
    content = saved(picture(), quality=90)
    cut, bits = content[: len(content) // 2], bytearray(content)
    bits[len(bits) // 2] ^= 0xFF
    for damaged in (cut, bytes(bits), content[:-2], content + b"more behind it"):
        errors = []
        for read in (by_jpeg, partial(by_pillow, monkeypatch=monkeypatch)):
            try:
                errors.append(read(damaged, 24).tolist())
            except OSError as error:
                errors.append(str(error))
        assert errors[0] == errors[1]
    with pytest.raises(OSError, match="truncated"):
        by_jpeg(cut, 24)


def test_a_path_and_a_file_within_one(tmp_path, monkeypatch):
    content = saved(picture())
    (tmp_path / "a.jpg").write_bytes(content)
    expected = by_pillow(content, 24, monkeypatch)
    assert np.array_equal(np.asarray(fit(open_image(tmp_path / "a.jpg", 24), 24)), expected)
    assert np.array_equal(np.asarray(fit(open_image(str(tmp_path / "a.jpg"), 24), 24)), expected)


def test_an_index_reads_by_it(monkeypatch):
    """Without Pillow where nothing is to be resized."""
    content, part = saved(picture(64, 64)), (0.5, 0.2, 0.9)
    expected = by_pillow(content, 64, monkeypatch)
    reader = placed.Placed.__new__(placed.Placed)
    reader.size = placed.Size(64, 64)
    found = reader._decode(0, content, part)
    with Image.open(io.BytesIO(content)) as whole:
        assert np.array_equal(found, np.asarray(fit(whole, 64, part)))
    assert not np.array_equal(found, expected)
    monkeypatch.setattr(placed, "fit", None)
    assert np.array_equal(reader._decode(0, content, placed.CENTRE), expected)
