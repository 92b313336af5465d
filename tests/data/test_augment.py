import numpy as np
import pytest
import torch

from trainer import noise
from trainer.data.augment import Augment
from trainer.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3), np.uint8)
POSITION = torch.arange(64) + 1000


def test_nothing_asked_nothing_changed():
    assert (Augment()(IMAGES, 0, POSITION) == IMAGES).all()


def test_flip_mirrors_about_its_share():
    flipped = Augment(flip=0.5)(IMAGES, 0, POSITION)
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == IMAGES).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 20 < mirrored.sum() < 44
    assert (Augment(flip=1.0)(IMAGES, 0, POSITION) == IMAGES[:, :, ::-1]).all()


def test_crop_shifts_by_up_to_its_pixels_and_repeats_the_edge():
    shifted = Augment(crop=2)(IMAGES, 0, POSITION)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), "edge")
    found = set()
    for i in range(64):
        offsets = [
            (y, x) for y in range(5) for x in range(5) if (padded[i, y : y + 12, x : x + 12] == shifted[i]).all()
        ]
        assert len(offsets) == 1
        found.add(offsets[0])
    assert len(found) > 15 and {y for y, _ in found} == {x for _, x in found} == set(range(5))


def test_colour_is_brightness_then_contrast_then_saturation():
    strength = 0.3
    changed = Augment(colour=strength)(IMAGES, 0, POSITION).astype(float)
    draws = noise.uniform(0, "augment", POSITION, 6).numpy()[:, 3:]
    for i in (0, 13, 63):
        brightness, contrast, saturation = 1 + strength * (2 * draws[i] - 1)
        value = IMAGES[i] * brightness
        value = value.mean() + contrast * (value - value.mean())
        grey = (value @ [0.299, 0.587, 0.114])[..., None]
        expected = np.clip(grey + saturation * (value - grey), 0, 255)
        assert abs(changed[i] - expected).max() <= 0.51  # rounding to whole values
    assert abs(changed - IMAGES).mean() > 3


def test_noise_has_its_standard_deviation():
    grey = np.full((64, 12, 12, 3), 128, np.uint8)
    noisy = Augment(noise=0.05)(grey, 0, POSITION).astype(float)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert (noisy[0] != noisy[1]).any()


@pytest.mark.parametrize("options", [{"flip": 0.5}, {"crop": 2}, {"colour": 0.2}, {"noise": 0.1}])
def test_a_sample_depends_on_seed_and_position_alone(options):
    augment = Augment(**options)
    whole = augment(IMAGES, 0, POSITION)
    assert (augment(IMAGES[10:13], 0, POSITION[10:13]) == whole[10:13]).all()
    assert (augment(IMAGES, 1, POSITION) != whole).any()
    assert (augment(IMAGES, 0, POSITION + 64) != whole).any()


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"crop": -1}, {"crop": 0.5}, {"colour": 1.0}, {"noise": -0.1}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match=rf"data.augment.{next(iter(options))}="):
        Augment(**options)
