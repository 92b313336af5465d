"""Augmentation on the device: what each part does, by draws of the position alone."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import noise
from trainer.batch import Batch, Condition
from trainer.data.augment import Augment
from trainer.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
from fake_gpu import FAKE, Copies, Made

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3), np.uint8)
POSITION = torch.arange(64) + 1000
EVERYTHING = Augment(flip=0.5, crop=2, colour=0.2, noise=0.05)


def batch_of(images, position=POSITION, other=None):
    zeros = torch.zeros(len(images), 1)
    condition = Condition(zeros[:, None], zeros.bool(), zeros)
    return Batch(torch.from_numpy(images).permute(0, 3, 1, 2), condition, zeros[:, 0].long(), position, other=other)


def augmented(augment, images, seed=0, position=POSITION):
    """Of images (N, H, W, 3)."""
    batch = batch_of(images, position)
    before = batch.image.clone()
    found = augment.of(batch, seed).image
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.image, before)
    return found.permute(0, 2, 3, 1).numpy()


def test_nothing_asked_nothing_changed():
    batch = batch_of(IMAGES)
    assert Augment().of(batch, 0) is batch


def test_seeds_have_the_moves_that_they_had():
    """Bit for bit, by the same draws: the second and third shift by whole pixels, the first mirrors the result."""
    draws = noise.uniform(5, "augment", POSITION, 6).numpy()
    padded = np.pad(IMAGES, ((0, 0), (3, 3), (3, 3), (0, 0)), "edge")
    found = augmented(Augment(flip=0.4, crop=3), IMAGES, seed=5)
    for image, (flip, down, right), moved in zip(padded, draws[:, :3], found, strict=True):
        top, left = int(down * 7), int(right * 7)
        window = image[top : top + 12, left : left + 12]
        assert (moved == (window[:, ::-1] if flip < 0.4 else window)).all()


def test_a_source_is_augmented_as_its_image():
    found = EVERYTHING.of(batch_of(IMAGES, other=batch_of(IMAGES)), 0)
    assert torch.equal(found.image, found.other.image)
    assert (found.image != batch_of(IMAGES).image).any()


def test_without_pixels_nothing_happens():
    assert EVERYTHING.of(batch_of(IMAGES[:, :0, :0]), 0).image.shape == (64, 3, 0, 0)


def test_no_step_waits_for_the_device():
    """On a device without values, on which what the host would wait for is an error, or is listed."""
    batch = batch_of(IMAGES)
    there = replace(batch, image=batch.image.to(FAKE), position=batch.position.to(FAKE))
    with Made() as made, Copies() as copies:
        found = EVERYTHING.of(there, 0)
    assert found.image.shape == batch.image.shape and found.image.device == FAKE
    assert made.found == copies.found == []


def test_flip_mirrors_about_its_share():
    flipped = augmented(Augment(flip=0.5), IMAGES)
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == IMAGES).all((1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 20 < mirrored.sum() < 44
    assert (augmented(Augment(flip=1.0), IMAGES) == IMAGES[:, :, ::-1]).all()


def test_crop_shifts_by_up_to_its_pixels_and_repeats_the_edge():
    shifted = augmented(Augment(crop=2), IMAGES)
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
    changed = augmented(Augment(colour=strength), IMAGES).astype(float)
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
    noisy = augmented(Augment(noise=0.05), grey).astype(float)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert (noisy[0] != noisy[1]).any()


@pytest.mark.parametrize("options", [{"flip": 0.5}, {"crop": 2}, {"colour": 0.2}, {"noise": 0.1}])
def test_a_sample_depends_on_seed_and_position_alone(options):
    augment = Augment(**options)
    whole = augmented(augment, IMAGES)
    assert (augmented(augment, IMAGES[10:13], position=POSITION[10:13]) == whole[10:13]).all()
    assert (augmented(augment, IMAGES, seed=1) != whole).any()
    assert (augmented(augment, IMAGES, position=POSITION + 64) != whole).any()


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"crop": -1}, {"crop": 0.5}, {"colour": 1.0}, {"noise": -0.1}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match=rf"data.augment.{next(iter(options))}="):
        Augment(**options)
