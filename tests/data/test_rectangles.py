"""Pictures in rectangles: the largest part in their middle, never stretched or turned, from every kind of data."""

import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import build, cache
from trainer.data.augment import Augment
from trainer.data.build import fit
from trainer.data.cache import cache_folder, open_cache
from trainer.data.files import open_image
from trainer.data.folder import Folder
from trainer.data.index import open_index
from trainer.data.webdataset import WebDataset
from trainer.size import Size

WIDTH, HEIGHT = 120, 80
SIZES = [Size(16, 24), Size(16, 40), Size(40, 16), Size(24, 24)]


def slope(width=WIDTH, height=HEIGHT):
    """A picture that tells where: red is twice the column, green twice the row, in pixels."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8))


def expected(size):
    """Left, top, right and bottom of the largest part in the middle in these proportions."""
    scale = min(WIDTH / size.width, HEIGHT / size.height)
    across, down = scale * size.width, scale * size.height
    return (WIDTH - across) / 2, (HEIGHT - down) / 2, (WIDTH + across) / 2, (HEIGHT + down) / 2


def seen(image):
    """The same of a cut slope (H, W, 3), from the colours in its middle and how they change."""
    height, width, _ = image.shape
    red, green = image[..., 0].astype(float), image[..., 1].astype(float)
    across = (red[:, -4] - red[:, 3]).mean() / 2 / (width - 7) * width
    down = (green[-4] - green[3]).mean() / 2 / (height - 7) * height
    middle = red.mean() / 2 + 0.5, green.mean() / 2 + 0.5
    return middle[0] - across / 2, middle[1] - down / 2, middle[0] + across / 2, middle[1] + down / 2


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_is_scaled_to_cover_and_cut_in_its_middle(size):
    image = np.asarray(fit(slope(), size.resolution))
    assert image.shape == (*size, 3)
    assert seen(image) == pytest.approx(expected(size), abs=1.5)
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    assert fit(whole, size).tobytes() == whole.tobytes()


def test_corners_stay_where_they_are():
    corners = Image.new("RGB", (60, 30))
    for box, colour in {(0, 0): "red", (30, 0): "lime", (0, 15): "blue", (30, 15): "white"}.items():
        corners.paste(colour, (*box, box[0] + 30, box[1] + 15))
    image = np.asarray(fit(corners, [16, 32]))
    found = [image[row, column].tolist() for row in (2, -3) for column in (2, -3)]
    assert found == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


def test_parts_of_a_random_crop_have_the_proportions():
    for part, right, down in ((0.5, 0.0, 1.0), (0.7, 0.3, 0.2), (0.9, 1.0, 0.0)):
        left, top, *_ = seen(np.asarray(fit(slope(), [16, 40], (part, right, down))))
        across, tall = WIDTH * part, WIDTH * 16 / 40 * part
        assert (left, top) == pytest.approx(((WIDTH - across) * right, (HEIGHT - tall) * down), abs=1.5)


@pytest.fixture
def pictures(tmp_path):
    """Pictures wide and tall, with sources of their own; and as a tar, without these."""
    root = tmp_path / "pictures"
    root.mkdir()
    lines = []
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(6):
            image = slope(WIDTH + 10 * number, HEIGHT) if number % 2 else slope(HEIGHT - 5 * number, WIDTH)
            image.save(root / f"{number}.png")
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / f"{number}-source.png")
            names = {"file_name": f"{number}.png", "source": f"{number}-source.png"}
            lines.append(json.dumps({**names, "text": f"thing {number}"}))
            (root / f"{number}.txt").write_text("thing")
            for suffix in ("png", "txt"):
                tar.add(root / f"{number}.{suffix}", f"{number}.{suffix}")
            (root / f"{number}.txt").unlink()
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("kind", [Folder, WebDataset])
def test_cache_and_index_hold_the_same_pictures(kind, pictures, tmp_path):
    source = kind(str(pictures / ("pictures" if kind is Folder else "0.tar")))
    decoded, placed = (opened(source, [16, 40], tmp_path / "cache") for opened in (open_cache, open_index))
    assert decoded.images.shape == placed.images.shape == (6, 16, 40, 3)
    assert (decoded.images[:] == placed.images[:]).all()
    assert (decoded.images[3] == np.asarray(fit(slope(WIDTH + 30, HEIGHT), [16, 40]))).all()
    if kind is Folder:
        assert (decoded.sources.images[:] == placed.sources.images[:]).all()
    assert placed.beside("a").name == "16x40px-a" and "-16x40px-" in decoded.folder.name


def test_batches_are_rectangles_and_a_source_is_cut_as_its_image(module, pictures):
    augment = Augment(random_crop=0.5, flip=0.5, crop=1)
    made = module(Folder(str(pictures / "pictures")), decoded=False, resolution=[16, 40], augment=augment)
    made.prepare()
    batch = made.arrived(next(iter(made.train_dataloader())))
    assert batch.image.shape == batch.other.image.shape == (8, 3, 16, 40)
    assert torch.equal(batch.image[:, 1], batch.other.image[:, 1])  # rows; columns are mirrored in the source


def test_a_jpeg_is_reduced_no_further_than_to_twice_the_rectangle(tmp_path):
    slope(960, 640).save(tmp_path / "a.jpg")
    sizes = {(40, 60): (120, 80), (40, 240): (480, 320), (320, 60): (960, 640)}
    assert {size: open_image(tmp_path / "a.jpg", size).size for size in sizes} == sizes


def test_a_square_by_two_numbers_is_that_of_one(plain, tmp_path):
    assert cache_folder(plain(), [24, 24], tmp_path) == cache_folder(plain(), 24, tmp_path)
    name = cache_folder(plain(), 24, tmp_path).name
    assert name == f"plain-24px-{cache.digest(cache._VERSION, plain().fingerprint())}", "caches of before are found"
    assert fit(slope(), [24, 24]).tobytes() == fit(slope(), 24).tobytes()
    centre = slope().resize((24, 24), Image.Resampling.LANCZOS, (20.0, 0.0, 100.0, 80.0), reducing_gap=3)
    assert fit(slope(), 24).tobytes() == centre.tobytes() and build.CENTRE == (1.0, 0.5, 0.5)
