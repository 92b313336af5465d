"""Maps of sizes that are no powers of two, of rectangles, up to 1,024 pixels; shapes are computed without values."""

import math

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.metrics.attributes import Probe
from trainer.networks import (
    attngan,
    coarse_to_fine,
    dcgan,
    hourglass,
    multiscale,
    progressive,
    r3gan,
    residual,
    stylegan2,
    tokenizer,
    transformer,
    unet,
)
from trainer.networks.layers import channels_at, grown, map_sizes, repeated
from trainer.networks.matching import ImageEncoder
from trainer.size import Size
from trainer.tasks.colorization import Colorization

TEXT, LATENT = 24, 8
OTHERS = [Size(512, 512), Size(1000, 1000), Size(72, 72), Size(1000, 72), Size(72, 96)]
SIZES = [Size(512, 512), Size(1024, 1024), Size(1000, 24), Size(72, 1000)]  # 1000: by way of 125, 62, 31, 15


def test_smallest_maps_have_4_to_7_pixels():
    assert map_sizes(32) == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert map_sizes(40) == [(5, 5), (10, 10), (20, 20), (40, 40)]
    assert map_sizes(104) == [(6, 6), (13, 13), (26, 26), (52, 52), (104, 104)]
    assert map_sizes([32, 88]) == [(4, 11), (8, 22), (16, 44), (32, 88)]
    assert map_sizes([88, 40]) == [(11, 5), (22, 10), (44, 20), (88, 40)]
    for resolution in [*range(16, 1032, 8), *([16 + each, 1024 - each] for each in range(0, 1008, 8))]:
        sizes = map_sizes(resolution)
        assert 4 <= min(sizes[0]) <= 7 and sizes[-1] == Size.of(resolution)
        assert [each.over(2) for each in sizes[1:]] == sizes[:-1]
        doubled = [3 << i for i in reversed(range(len(sizes)))]
        assert [channels_at(each, resolution, 3, 1 << 30) for each in sizes] == doubled


def test_a_map_grows_by_its_last_row_and_column():
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert grown(x, Size(3, 3)).tolist() == [[[[0, 1, 1], [2, 3, 3], [2, 3, 3]]]]
    assert grown(x, Size(2, 3)).tolist() == [[[[0, 1, 1], [2, 3, 3]]]]
    assert grown(x, Size(3, 2)).tolist() == [[[[0, 1], [2, 3], [2, 3]]]]
    assert grown(x, Size(2, 2)) is x


def test_logits_are_repeated_alike():
    logits = torch.arange(8.0).view(2, 4)
    assert repeated(logits, 8)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(repeated(logits, 9)[0].tolist()) == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def condition(count: int, source: torch.Tensor | None = None) -> Condition:
    mask = torch.ones(count, 6, dtype=torch.bool)
    return Condition(torch.randn(count, 6, TEXT), mask, torch.randn(count, TEXT), source)


def parameters(network: nn.Module) -> float:
    return sum(each.numel() for each in network.parameters()) / 1e6


@pytest.fixture
def hollow():
    """All that is made within has shapes and no values."""
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("family", [dcgan, residual, r3gan, stylegan2, transformer, progressive, attngan])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_families(family, size):
    text = {"resolution": size.resolution, "text_channels": TEXT, "text": nn.Identity()}
    if family is transformer:
        text["patch"] = 2 if min(size) == 24 else 4 if min(size) == 72 else 8
    image = torch.empty(2, 3, *size)
    generator = family.Generator(latent_channels=LATENT, **text)
    made = generator(torch.randn(2, generator.latent_channels), condition(2))
    assert made.shape == image.shape
    discriminator = family.Discriminator(**text)
    assert discriminator(made, condition(2)).shape[0] == 2
    networks = [generator, discriminator]
    if hasattr(family, "Encoder"):
        networks.append(encoder := family.Encoder(latent_channels=LATENT, **text))
        assert [each.shape for each in encoder(image, condition(2))] == [(2, LATENT)] * 2
    bound = 16 if size.height == size.width else 64  # the smallest maps of long ones have many places
    assert max(map(parameters, networks)) < bound, "widths are bounded, whatever the size"


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("size", OTHERS, ids=str)
def test_networks_of_tasks_and_measures(size):
    image, text = torch.empty(2, 3, *size), {"text_channels": TEXT, "text": nn.Identity()}
    task = Colorization()
    given = condition(2, torch.empty(2, task.source_channels, *size))
    for kind in (unet.Generator, coarse_to_fine.Generator):
        assert kind(task, size, LATENT, TEXT, nn.Identity())(torch.randn(2, LATENT), given).shape == image.shape
    assert hourglass.Hourglass(size, **text)(image, condition(2)).shape == image.shape
    whole, regions = ImageEncoder(size, 16)(image)
    assert whole.shape == (2, 16) and regions.shape == (2, 16, *map_sizes(size)[0])
    scales = multiscale.Discriminator(size, **text)
    assert scales(image, condition(2)).shape == (2, 2, math.prod(size.over(8)))
    patches = dcgan.Discriminator(size, **text, patches=2)
    assert patches(image, condition(2)).shape == (2, 3, math.prod(size.over(2)))
    least = min(size) // 8
    encoder, decoder = tokenizer.Encoder(size, least), tokenizer.Decoder(size, least, **text)
    assert encoder(image).shape[2:] == size.over(8)
    assert decoder(encoder(image), condition(2)).shape == image.shape
    assert [each.shape for each in Probe(size, [3, 4]).eval()(image)] == [(2, 3), (2, 4)]


def test_what_does_not_go_is_told_with_what_goes():
    with pytest.raises(UserError, match="size=8 at 48 pixels: expected one of their halves, 24, 12, 6, 3"):
        tokenizer.Encoder(48, 8)
    with pytest.raises(UserError, match="size=9 at 48x72 pixels: expected one of their halves, 24, 12, 6"):
        tokenizer.Encoder([48, 72], 9)
    with pytest.raises(UserError, match="patch=16 at resolution=32x40: expected one of 1, 2, 4, 8"):
        transformer.Generator([32, 40], LATENT, TEXT, nn.Identity(), patch=16)
    with pytest.raises(UserError, match="and a sum of at most 4 at 32x80 pixels"):
        multiscale.Discriminator([32, 80], TEXT, nn.Identity())
    with pytest.raises(UserError, match="patch=16 at resolution=40: expected one of 1, 2, 4, 5, 8, 10"):
        transformer.Generator(40, LATENT, TEXT, nn.Identity(), patch=16)
    assert dcgan.Generator(48, LATENT, TEXT, nn.Identity(), patch=None).patch == 2
