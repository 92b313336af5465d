"""Counter-based noise: the right distribution, and a pure function of seed, stream and position."""

import math
import zlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer import noise


def test_moments():
    x = noise.normal(0, "a", torch.arange(20000), 16).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.var() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.05
    u = noise.uniform(0, "a", torch.arange(20000), 16)
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005


def test_columns_rows_seeds_and_streams_are_independent():
    x = noise.normal(0, "a", torch.arange(20000), 8)
    correlation = torch.corrcoef(
        torch.cat(
            [
                x,
                noise.normal(1, "a", torch.arange(20000), 8),
                noise.normal(0, "b", torch.arange(20000), 8),
                x.roll(1, 0),
            ],
            1,
        ).T
    )
    assert (correlation - torch.eye(32)).abs().max() < 0.04


def test_pure_function_of_position():
    whole = noise.normal(3, "a", torch.arange(100), 5)
    order = torch.tensor([7, 99, 0])
    assert torch.equal(noise.normal(3, "a", order, 5), whole[order])
    far = torch.tensor([2**40, 2**62])
    assert noise.normal(3, "a", far, 5).isfinite().all()


class Copies(TorchDispatchMode):
    """Counts tensors that leave the CPU for another device: a copy from pageable memory waits for that device."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        tensors = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, torch.Tensor)]
        here = any(each.device.type == "cpu" for each in tensors)
        self.count += here and isinstance(made, torch.Tensor) and made.device.type != "cpu"
        return made


def mixed(z):
    """SplitMix64's finaliser."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


@pytest.mark.parametrize("seed", [0, 3, -1])
def test_numbers_are_those_of_the_formula(seed):
    """As runs of before drew them, too."""
    golden, positions = 0x9E3779B97F4A7C15, [0, 5, 2**62, -7]
    drawn = noise.bits(seed, "sample", torch.tensor(positions), 3)
    normals = noise.normal(seed, "sample", torch.tensor(positions), 3)
    for i, position in enumerate(positions):
        row = mixed((mixed((seed * golden + zlib.crc32(b"sample")) % 2**64) + position * golden) % 2**64)
        for j in range(3):
            number = mixed((row + (j + 1) * golden) % 2**64)
            assert int(drawn[i, j]) % 2**64 == number
            radius, angle = ((number >> 32) + 1) / 2**32, number % 2**32 / 2**32
            expected = math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)
            assert normals[i, j].item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_nothing_is_copied_to_the_device():
    position = torch.arange(8, device="meta")  # in place of a GPU
    with Copies() as copies:
        torch.arange(3).to("meta")
        assert copies.count == 1
        for count in (5, 7, 5):
            assert noise.normal(0, "a", position, count).shape == (8, count)
            assert noise.uniform(1, "b", position, count).device.type == "meta"
    assert copies.count == 1


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    position = torch.tensor([0, 1, 2**40, 2**62])
    for count in (1, 7, 1000):
        assert torch.equal(noise.bits(3, "a", position.cuda(), count).cpu(), noise.bits(3, "a", position, count))
        there, here = (noise.normal(3, "a", each, count).cpu() for each in (position.cuda(), position))
        torch.testing.assert_close(there, here)
