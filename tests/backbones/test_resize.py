import numpy as np
import pytest
import torch
from PIL import Image

from trainer.backbones.resize import bicubic, rounded_bicubic, tf1_bilinear

SIZES = [(64, 64, 299), (37, 90, 224), (400, 333, 224), (512, 256, 64)]


def random_images(height, width):
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_bicubic_is_pillows_on_floats(height, width, size):
    images = random_images(height, width)
    ours = bicubic(images, size)
    assert size < 100 or (ours.min() < 0 and ours.max() > 255)  # overshoot stays
    for image, resized in zip(images, ours, strict=True):
        for channel, got in zip(image.numpy(), resized.numpy(), strict=True):
            picture = Image.fromarray(channel.astype(np.float32))  # mode F
            expected = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(got, expected, atol=2e-2)


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_rounded_bicubic_is_pillows_on_pictures(height, width, size):
    images = random_images(height, width)
    ours = rounded_bicubic(images, size)
    for image, resized in zip(images, ours, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        difference = np.abs(resized.permute(1, 2, 0).numpy() - expected)
        assert difference.max() <= 2 and (difference > 0).mean() < 0.2  # newer Pillows may begin with the columns


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_bilinear_is_tensorflow_1s(height, width, size):
    """By the definition: position i * in / out, weights of its two neighbours, in float64."""
    images = random_images(height, width)
    expected = images.double().numpy()
    for axis, length in ((2, height), (3, width)):
        at = np.arange(size) * (length / size)
        low = np.floor(at).astype(int)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        high = np.minimum(low + 1, length - 1)
        expected = expected.take(low, axis) * (1 - share) + expected.take(high, axis) * share
    np.testing.assert_allclose(tf1_bilinear(images, size).numpy(), expected, atol=2e-2)


def test_bilinear_by_hand():
    image = torch.tensor([[[[0, 100], [200, 40]]]], dtype=torch.uint8)
    expected = [[0, 50, 100, 100], [100, 85, 70, 70], [200, 120, 40, 40], [200, 120, 40, 40]]
    assert tf1_bilinear(image, 4)[0, 0].tolist() == expected


@pytest.mark.parametrize("resize", [bicubic, rounded_bicubic, tf1_bilinear])
def test_the_right_size_stays_as_it_is(resize):
    images = random_images(8, 8)
    assert torch.equal(resize(images, 8), images.float())
