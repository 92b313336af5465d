"""Each task: what happens to a picture, by its position alone, and what is left as it was."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from trainer.errors import UserError
from trainer.tasks import degradations
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.enhancement import Enhancement
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.restoration import Restoration
from trainer.tasks.super_resolution import SuperResolution

TASKS = {
    "inpainting": Inpainting(),
    "x2": SuperResolution(),
    "x4": SuperResolution(scale=4),
    "denoising": Denoising(),
    "enhancement": Enhancement(),
    "colorization": Colorization(),
    "restoration": Restoration(),
}


def pictures(count, side=32, seed=0):
    """Soft ones, of whole grey levels."""
    coarse = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    images = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(-1, 1)
    return ((images + 1) * 127.5).round() / 127.5 - 1


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_source_hangs_on_its_position_alone(task):
    images = pictures(12)
    sources = task(images, 3, torch.arange(12) + 100)
    side = 32 // task.scale
    assert sources.shape == (12, task.source_channels, side, side)
    assert sources.abs().max() <= 1 + 1e-6
    order = torch.tensor([7, 2, 11])
    torch.testing.assert_close(task(images[order], 3, order + 100), sources[order], atol=1e-6, rtol=0)
    if not isinstance(task, Colorization):
        assert not torch.allclose(task(images, 4, torch.arange(12) + 100), sources), "another seed"
        one = task(images[:1].expand(12, -1, -1, -1), 3, torch.arange(12))
        assert len({each.numpy().tobytes() for each in one}) > 8, "strengths differ from sample to sample"
    start = task.start(sources)
    assert start.shape == images.shape
    assert start.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_jpeg_is_that_of_pillow(quality):
    images = pictures(4, 48) * 0.7 + 0.1
    images = ((images + 1) * 127.5).round() / 127.5 - 1
    ours = (degradations.jpeg(images, torch.full((4,), float(quality))) + 1) * 127.5
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for each, mine in zip(pixels, ours, strict=True):
        file = io.BytesIO()
        Image.fromarray(each).save(file, "JPEG", quality=quality, subsampling=2)
        theirs = np.asarray(Image.open(file)).astype(float)
        lost = np.abs(theirs - each).mean()
        assert np.abs(theirs - mine.permute(1, 2, 0).numpy()).mean() < max(1.5, lost / 3)


@pytest.mark.parametrize(("height", "width"), [(17, 40), (8, 8), (31, 15)])
def test_jpeg_takes_any_size_and_leaves_a_plain_picture(height, width):
    plain = torch.tensor([0.2, -0.4, 0.6]).view(1, 3, 1, 1).expand(2, 3, height, width)
    kept = degradations.jpeg(plain, torch.tensor([95.0, 60.0]))
    assert kept.shape == plain.shape
    assert (kept - plain).abs().max() < 8 / 127.5


def test_blur_is_a_gaussian_of_each_samples_sigma():
    images, sigma = pictures(3, 40), torch.tensor([0.0, 0.7, 2.0])
    found = degradations.blurred(images, sigma)
    torch.testing.assert_close(found[0], images[0])
    for each, image, blurred in zip(sigma[1:].tolist(), images[1:], found[1:], strict=True):
        for plane, mine in zip(image, blurred, strict=True):
            expected = ndimage.gaussian_filter(plane.numpy(), each, mode="nearest", truncate=9 / each)
            np.testing.assert_allclose(mine.numpy(), expected, atol=1e-4)


def test_a_smaller_picture_is_made_in_three_ways():
    images = pictures(3)
    found = degradations.smaller(images, 4, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found[0], images[0].unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4)))
    for number, mode in ((1, "bilinear"), (2, "bicubic")):
        expected = F.interpolate(images[number : number + 1], size=(8, 8), mode=mode, antialias=True)[0]
        torch.testing.assert_close(found[number], expected)


def test_holes_are_boxes_or_strokes_and_grey():
    task, images = Inpainting(boxes=0.5), pictures(400)
    sources = task(images, 0, torch.arange(400))
    hole = sources[:, 3] > 0
    assert set(sources[:, 3].unique().tolist()) == {-1.0, 1.0}
    assert not sources[:, :3].permute(0, 2, 3, 1)[hole].any()
    torch.testing.assert_close(sources[:, :3].permute(0, 2, 3, 1)[~hole], images.permute(0, 2, 3, 1)[~hole])
    area = hole.flatten(1).float().mean(1)
    assert 0 < area.min() and area.max() < 0.85
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    is_box = hole.flatten(1).sum(1) == rows * columns
    assert 0.4 < is_box.float().mean() < 0.6
    for sides in (rows[is_box], columns[is_box]):
        assert 7 <= sides.min() and sides.max() <= 20  # a quarter to 0.6 of 32


def test_a_stroke_reaches_half_a_brush_from_its_line():
    task = Inpainting(boxes=0.0, brush=(0.2, 0.2))
    hole = task.hole(pictures(50), 0, torch.arange(50))[:, 0]
    for side, has_room in ((4, True), (16, False)):  # within a brush of 6.4 pixels
        whole = -F.max_pool2d(-hole[:, None], side, 1)
        assert (whole.flatten(1).amax(1) > 0).all() == has_room


def test_what_is_known_comes_back():
    images, noise = pictures(4), pictures(4, seed=1)
    sources = TASKS["inpainting"](images, 0, torch.arange(4))
    kept = TASKS["inpainting"].keep(noise, sources)
    hole = (sources[:, 3:] > 0).expand_as(kept)
    torch.testing.assert_close(kept[~hole], images[~hole])
    torch.testing.assert_close(kept[hole], noise[hole])
    grey = TASKS["colorization"](images, 0, torch.arange(4))
    torch.testing.assert_close(degradations.luma(TASKS["colorization"].keep(noise, grey)), grey, atol=1e-5, rtol=0)


def test_noise_has_the_deviation_that_was_asked_for():
    flat = torch.zeros(64, 3, 32, 32)
    assert (Denoising((20.0, 20.0))(flat, 0, torch.arange(64)) * 127.5).std() == pytest.approx(20, rel=0.01)
    each = (Denoising((5.0, 50.0))(flat, 0, torch.arange(64)) * 127.5).flatten(1).std(1)
    assert 4 < each.min() < 10 and 44 < each.max() < 52


def test_enhancement_without_strength_changes_nothing_and_haze_pales():
    images = pictures(8)
    torch.testing.assert_close(Enhancement(0, 0, 0, 0)(images, 0, torch.arange(8)), images, atol=1e-5, rtol=0)
    hazy = Enhancement(0, 0, 0, 0.9)(images, 0, torch.arange(8))
    assert (hazy.flatten(1).std(1) < images.flatten(1).std(1)).all()
    assert hazy.mean() > images.mean()
    assert Restoration(probability=0)(images, 0, torch.arange(8)).equal(images)


def test_a_users_picture_is_a_source():
    image, mask = pictures(1), torch.zeros(1, 1, 32, 32)
    mask[..., :8] = 1
    source = Inpainting().of_picture(image, mask)
    assert source.shape == (1, 4, 32, 32) and (source[:, 3, :, :8] == 1).all() and not source[:, :3, :, :8].any()
    assert Denoising().of_picture(image) is image
    torch.testing.assert_close(Colorization().of_picture(image), degradations.luma(image))
    with pytest.raises(UserError, match=r"none is given: mask=mask.png"):
        Inpainting().of_picture(image)


def test_sources_of_other_channels_are_told():
    dropped = Denoising(source_dropout=0.1)
    for task, channels in ((Inpainting(), 3), (Denoising(), 4), (Colorization(), 3), (dropped, 1)):
        with pytest.raises(UserError, match=rf"sources of {channels} channels: expected {task.channels}, as \w+\("):
            task.marked(torch.zeros(1, channels, 8, 8))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Inpainting, {"boxes": 2}, r"task.boxes=2: expected a share"),
        (Inpainting, {"box": (0.6, 0.3)}, r"task.box=\[0.6, 0.3\]: expected two shares"),
        (SuperResolution, {"scale": 3}, r"task.scale=3: expected 2 or 4"),
        (SuperResolution, {"quality": 0}, r"task.quality=0: expected that of a JPEG"),
        (Denoising, {"noise": (9, 3)}, r"task.noise=\[9, 3\]: expected two deviations"),
        (Enhancement, {"haze": 1.0}, r"task.haze=1.0: expected a strength"),
        (Restoration, {"probability": -1}, r"task.probability=-1: expected it in"),
    ],
)
def test_numbers_out_of_range_are_told(kind, settings, message):
    with pytest.raises(UserError, match=message):
        kind(**settings)
