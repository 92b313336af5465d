"""Every kind of pixels becomes RGB of 8 bits by one rule, in training and where a picture is given."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainer.data.build import fit
from trainer.data.files import open_image
from trainer.sampling.sources import read

WIDE = np.array([0, 255, 0x8000, 65535], np.uint16)  # of 16 bits
ALPHA = np.array([0, 85, 170, 255], np.uint8)


def rows(values):
    """A picture of 4 equal rows."""
    return np.tile(np.asarray(values), (4,) + (1,) * np.asarray(values).ndim)


def saved(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content


def png(bits, colour, values):
    """A PNG of 4 equal rows of 4 pixels, which Pillow does not write in all of its kinds."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0)
    row = b"\0" + np.asarray(values).astype(">u2" if bits == 16 else np.uint8).tobytes()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(4 * row)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + parts)


def palette():
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    image.putdata([0, 1, 2, 0] * 4)
    return image


def on_white(colour):
    """What paint of a colour lets through of white."""
    return [[255 + (channel - 255) * a / 255 for channel in colour] for a in ALPHA.tolist()]


def grey(values):
    return [[value] * 3 for value in values]


def lab():
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    image = Image.fromarray(rows([[255, 0, 0], [0, 255, 0], [9, 9, 9], [255, 255, 255]]).astype(np.uint8))
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


def with_alpha(*colour):
    pixels = np.array([[*colour, a] for a in ALPHA], np.uint8)
    return Image.fromarray(rows(pixels), "LA" if len(colour) == 1 else "RGBA")


UPPER = grey([0, 0, 128, 255])  # 8 of 16 bits
FRACTIONS = np.array([0, 0.25, 0.5, 1], np.float32)
INK = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 128], [255, 255, 0, 0]], np.uint8)
PRINTED = [[255] * 3, [0, 255, 255], [127] * 3, [0, 0, 255]]
COLOURS = np.array([[0, 65535, 0x8000], [65535] * 3, [0] * 3, [0x1000, 0x2000, 0x3000]])
KINDS = {  # file, RGB of a row
    "grey": (saved(Image.fromarray(rows(ALPHA)), "PNG"), grey(ALPHA)),
    "one bit": (saved(Image.fromarray(rows([True, False] * 2)), "PNG"), grey([255, 0, 255, 0])),
    "16-bit grey PNG": (saved(Image.fromarray(rows(WIDE)), "PNG"), UPPER),
    "16-bit grey TIFF": (saved(Image.fromarray(rows(WIDE)), "TIFF"), UPPER),
    "16-bit grey TIFF of big ends": (saved(Image.fromarray(rows(WIDE.astype(">u2"))), "TIFF"), UPPER),
    "16-bit PGM": (saved(Image.fromarray(rows(WIDE.astype(np.int32))), "PPM"), UPPER),
    "32-bit TIFF": (saved(Image.fromarray(rows([-1, 255, 0x8000, 70000]).astype(np.int32)), "TIFF"), UPPER),
    "16-bit grey, one of it transparent": (
        saved(Image.fromarray(rows(WIDE)), "PNG", transparency=0), grey([255, 0, 128, 255]),
    ),
    "16-bit colour": (png(16, 2, COLOURS), (COLOURS >> 8).tolist()),
    "16-bit colour with alpha": (
        png(16, 6, [[65535, 0, 0, a * 257] for a in ALPHA.tolist()]), on_white([255, 0, 0]),
    ),
    "16-bit grey with alpha": (png(16, 4, [[0x6400, a * 257] for a in ALPHA.tolist()]), on_white([100] * 3)),
    "fractions": (saved(Image.fromarray(rows(FRACTIONS)), "TIFF"), grey(255 * FRACTIONS)),
    "fractions of 255": (saved(Image.fromarray(rows(250 * FRACTIONS)), "TIFF"), grey(250 * FRACTIONS)),
    "no number": (
        saved(Image.fromarray(rows([np.nan, 0, 1, -np.inf]).astype(np.float32)), "TIFF"), grey([0, 0, 255, 0]),
    ),
    "grey with alpha": (saved(with_alpha(100), "PNG"), on_white([100] * 3)),
    "RGBA PNG": (saved(with_alpha(200, 0, 40), "PNG"), on_white([200, 0, 40])),
    "RGBA WebP": (saved(with_alpha(200, 0, 40), "WEBP", lossless=True, exact=True), on_white([200, 0, 40])),
    "RGBA TIFF": (saved(with_alpha(200, 0, 40), "TIFF"), on_white([200, 0, 40])),
    "palette": (saved(palette(), "PNG"), [[10, 20, 30], [200, 0, 0], [0, 200, 0], [10, 20, 30]]),
    "palette, one of it transparent": (
        saved(palette(), "PNG", transparency=1), [[10, 20, 30], [255] * 3, [0, 200, 0], [10, 20, 30]],
    ),
    "palette with alpha": (
        saved(palette(), "PNG", transparency=bytes([255, 51, 0])),
        [[10, 20, 30], [244, 204, 204], [255] * 3, [10, 20, 30]],
    ),
    "GIF": (saved(palette(), "GIF", transparency=0), [[255] * 3, [200, 0, 0], [0, 200, 0], [255] * 3]),
    "RGB, one of it transparent": (
        saved(Image.fromarray(rows(INK[:, :3])), "PNG", transparency=(255, 0, 0)),
        [[0] * 3, [255] * 3, [0] * 3, [255, 255, 0]],
    ),
    "CMYK JPEG": (saved(Image.fromarray(rows(INK), "CMYK"), "JPEG", quality=100), PRINTED),
    "CMYK TIFF": (saved(Image.fromarray(rows(INK), "CMYK"), "TIFF"), PRINTED),
    "Lab TIFF": (saved(lab(), "TIFF"), [[255, 0, 0], [0, 255, 0], [9] * 3, [255] * 3]),
}  # fmt: skip
NEARLY = {"Lab TIFF": 15}  # its values are of 8 bits, and of another formula


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_pixels(kind, tmp_path):
    file, expected = KINDS[kind]
    found = np.asarray(fit(open_image(file, 4), 4))
    assert found.shape == (4, 4, 3) and (found == found[:1]).all()
    assert abs(found[0] - np.array(expected, float)).max() <= NEARLY.get(kind, 1)
    (tmp_path / "picture").write_bytes(file.getvalue())
    given = read(tmp_path / "picture")
    assert ((given.picture.permute(1, 2, 0).numpy() + 1) * 127.5).round().tolist() == found.tolist()


def test_paint_does_not_run_into_what_is_transparent():
    """Black under full transparency is no edge of the thing: it is mixed with white before it is made smaller."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = [0, 0, 255, 255]
    small = np.asarray(fit(open_image(saved(Image.fromarray(pixels), "PNG"), 8), 2)).astype(int)
    assert (abs(small[:, 0] - 255) < 25).all() and (small[..., 2] > 245).all()


def test_a_mask_of_16_bits():
    image = Image.new("RGB", (4, 4))
    hole = read(image, Image.fromarray(rows(np.array([0, 0x1000, 0xF000, 65535], np.uint16)))).mask
    assert hole[0, 0].tolist() == [0, 0, 1, 1]
