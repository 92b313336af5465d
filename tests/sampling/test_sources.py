"""Pictures of users as sources: whole and upright, with their holes, in tiles that leave no seam."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.errors import UserError
from trainer.sampling import sources
from trainer.sampling.sampler import as_pixels
from trainer.sampling.sources import Source, redraw, starts
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.super_resolution import SuperResolution


class Shown:
    """Stands for a sampler: draws what a task starts from, and remembers what it was given."""

    def __init__(self, task, resolution=32):
        self.task, self.network = task, self
        self.resolution, self.given = resolution, []

    def __call__(self, captions, seeds, tiles):
        self.given.append((list(captions), list(seeds), tiles))
        return as_pixels(self.task.start(tiles))


def photo(width, height, seed=0):
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (20, 9), (100, 70), (33, 32), (57, 24)])
def test_a_picture_of_any_size_comes_back_whole_and_without_a_seam(width, height):
    sampler = Shown(Denoising())
    image = photo(width, height)
    (drawn,) = redraw(sampler, [sources.read(image)], ["a cat"], [3])
    assert torch.equal(drawn, pixels_of(image))
    captions, seeds, tiles = sampler.given[0]
    assert tiles.shape[1:] == (3, 32, 32)
    assert captions == ["a cat"] * len(tiles) and seeds == [3] * len(tiles)


@pytest.mark.parametrize(("width", "height"), [(48, 32), (20, 9), (100, 70), (33, 90), (57, 24)])
def test_tiles_have_the_proportions_of_pictures_of_training(width, height):
    sampler, image = Shown(Denoising(), [32, 48]), photo(width, height)
    (drawn,) = redraw(sampler, [sources.read(image)], ["a cat"], [3])
    assert torch.equal(drawn, pixels_of(image))
    assert sampler.given[0][2].shape[1:] == (3, 32, 48)
    (large,) = redraw(Shown(SuperResolution(), [32, 48]), [sources.read(image)], ["x"], [0])
    assert large.shape == (3, 2 * height, 2 * width)


@pytest.mark.parametrize("scale", [2, 4])
def test_tiles_of_small_pictures_become_one_large(scale):
    image = photo(40, 22)
    (drawn,) = redraw(Shown(SuperResolution(scale=scale), 64), [sources.read(image)], ["x"], [0])
    assert drawn.shape == (3, 22 * scale, 40 * scale)
    whole = as_pixels(SuperResolution(scale=scale).start(sources.read(image).picture[None]))[0]
    inside = slice(8, -8)
    assert (drawn.int() - whole.int()).abs()[:, inside, inside].max() <= 2 + 40 / scale  # bicubic sees a tile's edge
    assert (drawn.int() - whole.int()).abs().float().mean() < 1


def test_several_pictures_are_drawn_at_once_each_with_its_caption_and_seed():
    sampler = Shown(Colorization())
    given = [sources.read(photo(50, 40, 1)), sources.read(photo(20, 20, 2))]
    one, two = redraw(sampler, given, ["a", "b"], [1, 2])
    assert (one.shape, two.shape) == ((3, 40, 50), (3, 20, 20))
    many = redraw(Shown(Colorization()), given * 90, ["a", "b"] * 90, range(180))
    assert len(many) == 180 and torch.equal(many[-1], two) and torch.equal(many[0], one)
    captions, seeds, tiles = sampler.given[0]
    assert len(sampler.given) == 1 and tiles.shape[1] == 1
    assert captions == ["a"] * 4 + ["b"] and seeds == [1] * 4 + [2]


@pytest.mark.parametrize("length", [*range(8, 60)])
def test_tiles_reach_from_end_to_end_and_overlap_by_a_quarter(length):
    places = starts(length, 8)
    assert places[0] == 0 and places[-1] + 8 == length
    assert all(0 < b - a <= 6 for a, b in pairwise(places))


def test_a_hole_is_white_in_the_mask_or_transparent_in_the_picture(tmp_path):
    image = photo(24, 16)
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, 8, 16))
    by_mask = sources.read(image, mask)
    clear = image.copy().convert("RGBA")
    clear.putalpha(Image.eval(mask, lambda value: 255 - value))
    clear.save(tmp_path / "clear.png")
    by_alpha = sources.read(tmp_path / "clear.png")
    assert torch.equal(by_mask.mask, by_alpha.mask)
    assert by_mask.mask[0, :, :8].all() and not by_mask.mask[0, :, 8:].any()
    assert torch.equal(by_mask.picture[:, :, 8:], by_alpha.picture[:, :, 8:])
    assert (by_alpha.picture[:, :, :8] == 1).all(), "white, as in training"
    sampler = Shown(Inpainting())
    (drawn,) = redraw(sampler, [by_mask], ["x"], [0])
    assert ((drawn[:, :, :8] - 127.5).abs() == 0.5).all() and torch.equal(drawn[:, :, 8:], pixels_of(image)[:, :, 8:])
    (drawn,) = redraw(Shown(Denoising()), [by_alpha], ["x"], [0])
    assert (drawn[:, :, :8] == 255).all()


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (56, 32)])
@pytest.mark.parametrize(("width", "height", "box"), [(90, 70, (30, 20, 41, 28)), (90, 40, (10, 5, 60, 35)),
                                                      (20, 24, (0, 0, 6, 24)), (64, 50, (60, 46, 64, 50))])  # fmt: skip
def test_a_hole_is_drawn_as_one_whatever_the_size_of_the_picture(size, width, height, box):
    image, mask = photo(width, height), Image.new("L", (width, height))
    mask.paste(255, box)

    class Mean(Inpainting):
        """Fills a hole with 0.5 of red, green and blue."""

        def start(self, source):
            return torch.where(source[:, 3:] > 0, 0.5, source[:, :3])

    sampler = Shown(Mean(), size)
    (drawn,) = redraw(sampler, [sources.read(image, mask)], ["a star"], [1])
    captions, _, tiles = sampler.given[0]
    assert captions == ["a star"] and tiles.shape == (1, 4, *size)
    hole = pixels_of(mask.convert("RGB")) > 0
    assert torch.equal(drawn[~hole], pixels_of(image)[~hole])
    within = drawn[hole].float()
    assert (within - 191).abs().mean() < 12  # resizing softens its border
    assert (tiles[0, 3] > 0).any() and (tiles[0, 3] < 0).any(), "what is around it is seen"


def turned(image, way):
    return image.transpose(way) if way is not None else image


WAYS = (None, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180)


@pytest.mark.parametrize(("width", "height", "box"), [(90, 40, (10, 6, 60, 36)), (40, 96, (0, 60, 40, 96)),
                                                      (20, 24, (0, 0, 6, 24)), (64, 50, (60, 40, 64, 50))])  # fmt: skip
def test_what_is_around_a_hole_hangs_on_no_side(width, height, box):
    """A picture that is turned over is drawn as that one, turned over: also where the window is larger than it."""
    image, mask = photo(width, height), Image.new("L", (width, height))
    mask.paste(255, box)
    seen = []
    for way in WAYS:
        sampler = Shown(Inpainting())
        (drawn,) = redraw(sampler, [sources.read(turned(image, way), turned(mask, way))], ["x"], [0])
        axes = {None: (), WAYS[1]: (-2,), WAYS[2]: (-1,), WAYS[3]: (-2, -1)}[way]
        seen.append((sampler.given[0][2].flip(axes), drawn.flip(axes)))
    for tile, drawn in seen[1:]:
        torch.testing.assert_close(tile, seen[0][0], atol=1e-5, rtol=0)
        assert (drawn.int() - seen[0][1].int()).abs().max() <= 1
    rows = seen[0][0][0, 3].gt(0).any(1).nonzero()[:, 0].float()
    if (width, height) == (90, 40):
        assert rows.mean() == pytest.approx(15.5, abs=0.6), "the hole is in the middle of the window"


def test_a_picture_smaller_than_those_of_training_is_in_the_middle():
    sampler, image = Shown(Denoising()), photo(20, 12)
    (drawn,) = redraw(sampler, [sources.read(image)], ["x"], [0])
    assert torch.equal(drawn, pixels_of(image))
    (tile,) = as_pixels(sampler.given[0][2])
    assert torch.equal(tile[:, 10:22, 6:26], pixels_of(image))
    assert torch.equal(tile[:, :10, 6:26], pixels_of(image)[:, :1].expand(-1, 10, -1)), "continued by its edge"
    assert torch.equal(tile[:, 22:, 26:], pixels_of(image)[:, -1:, -1:].expand(-1, 10, 6))


def test_pictures_are_upright_and_of_any_mode(tmp_path):
    image = photo(24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    assert sources.read(tmp_path / "turned.png").picture.shape == (3, 24, 16)
    grey = sources.read(image.convert("L")).picture
    assert grey.shape == (3, 16, 24) and torch.equal(grey[0], grey[2])
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert sources.read(tmp_path / "deep.png").picture.mean() == pytest.approx(156 / 127.5 - 1)
    assert sources.read(image.convert("P")).picture.shape == (3, 16, 24)


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"source=.*none.png: no such file"):
        sources.files(tmp_path / "none.png")
    with pytest.raises(UserError, match="no picture in this folder"):
        sources.files(tmp_path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(UserError, match=r"source=.*torn.png: not a picture that can be read"):
        sources.read(tmp_path / "torn.png")
    with pytest.raises(UserError, match="mask: 8 x 9 pixels, and source has 24 x 16: expected the same size"):
        sources.read(photo(24, 16), photo(8, 9))
    (tmp_path / "mask.jpg").write_text("none")
    with pytest.raises(UserError, match=r"mask=.*mask.jpg: not a picture"):
        sources.read(photo(24, 16), tmp_path / "mask.jpg")
    with pytest.raises(UserError, match="draws from captions alone"):
        redraw(Shown(None), [Source(torch.zeros(3, 8, 8), None)], ["x"], [0])
    photo(8, 8).save(tmp_path / "b.png")
    photo(8, 8).save(tmp_path / "a.JPG", "JPEG")
    assert [each.name for each in sources.files(tmp_path)] == ["a.JPG", "b.png", "mask.jpg", "torn.png"]
