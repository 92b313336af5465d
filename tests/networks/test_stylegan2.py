"""StyleGAN2's blocks against the paper's equations: modulation, resampling, deviation, styles, truncation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.test_architectures import LATENT, TEXT, make, make_condition
from trainer.errors import UserError
from trainer.networks import stylegan2
from trainer.networks.filtered_trunk import DownBlock, MinibatchDeviation
from trainer.networks.modulation import Enlarge, LowPass, ModulatedConv, StyledConv

TAPS = np.array([1, 3, 3, 1]) / 8


def explicit(conv, x, scale):
    """Equations 1 and 3 as they stand: weights of its own for each sample."""
    found = []
    for image, factors in zip(x, scale, strict=True):
        weight = factors[None, :, None, None] * conv.weight
        if conv.demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if conv.filter is None:
            found.append(F.conv2d(image[None], weight, padding=conv.weight.shape[2] // 2))
        else:
            wide = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            taps = torch.tensor(TAPS, dtype=torch.float32).outer(torch.tensor(TAPS, dtype=torch.float32)) * 4
            found.append(F.conv2d(F.pad(wide, (1, 1, 1, 1)).transpose(0, 1), taps[None, None]).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel_size", "up"), [(3, False), (1, False), (3, True)])
def test_modulation_equals_weights_of_each_sample(demodulate, kernel_size, up):
    torch.manual_seed(0)
    conv = ModulatedConv(6, 5, kernel_size, demodulate, up)
    x, scale = torch.randn(3, 6, 7, 9), torch.randn(3, 6)
    expected = explicit(conv, x, scale)
    assert expected.shape[2:] == ((14, 18) if up else (7, 9))
    torch.testing.assert_close(conv(x, scale), expected, atol=2e-5, rtol=1e-4)


def test_demodulated_maps_have_unit_variance():
    torch.manual_seed(0)
    conv = ModulatedConv(64, 32)
    out = conv(torch.randn(4, 64, 32, 32), 5 * torch.randn(4, 64))[:, :, 1:-1, 1:-1]
    assert out.var((2, 3)).mean().item() == pytest.approx(1.0, rel=0.05)


def filtered(image, padding):
    """Row by row and column by column, by numpy's convolution."""
    image = np.pad(image, padding)
    image = np.stack([np.convolve(row, TAPS, "valid") for row in image])
    return np.stack([np.convolve(column, TAPS, "valid") for column in image.T]).T


def test_resampling_is_the_separable_filter():
    x = torch.randn(2, 3, 6, 8)
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    zeros = np.zeros((2, 3, 16, 20))
    zeros[:, :, ::2, ::2] = wide
    for part in np.ndindex(2, 3):
        image = x[part].double().numpy()
        assert np.allclose(LowPass(padding=2)(x)[part], filtered(image, 2), atol=1e-6)
        assert np.allclose(LowPass(stride=2)(x)[part], filtered(image, 1)[::2, ::2], atol=1e-6)
        assert np.allclose(Enlarge()(x)[part], 4 * filtered(zeros[part], 0)[:12, :16], atol=1e-6)


def test_enlarging_is_bilinear():
    """Zero-stuffed and filtered by [1, 3, 3, 1], pixels are mixed 3 : 1, as in bilinear interpolation."""
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(Enlarge()(x), F.interpolate(x, scale_factor=2, mode="bilinear"))


def test_noise_has_a_learned_strength():
    torch.manual_seed(0)
    conv = StyledConv(4, 5, 6, noise=True)
    x, style, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 6), torch.randn(2, 1, 8, 8)
    assert torch.equal(conv(x, style, noise), conv(x, style, -noise)), "it starts at 0"
    with torch.no_grad():
        conv.strength.fill_(0.5)
        conv.bias.normal_()
    expected = conv.conv(x, conv.style(style)) + 0.5 * noise + conv.bias.view(5, 1, 1)
    torch.testing.assert_close(conv(x, style, noise), 2**0.5 * F.leaky_relu(expected, 0.2))


@pytest.mark.parametrize(("count", "group", "compared"), [(8, 4, 4), (6, 4, 3), (2, 4, 2), (5, 4, 1)])
def test_deviation_is_that_of_neighbours(count, group, compared):
    x = torch.randn(count, 3, 4, 4)
    out = MinibatchDeviation(group)(x)
    assert torch.equal(out[:, :3], x)
    for i in range(count):
        first = i // compared * compared
        expected = x[first : first + compared].numpy().std(0).mean()
        assert np.allclose(out[i, 3].numpy(), expected, atol=2e-4)


def test_a_sample_sees_its_group_alone():
    discriminator, image = make(stylegan2, "Discriminator"), torch.randn(8, 3, 16, 16, requires_grad=True)
    discriminator(image, make_condition(8))[5].sum().backward()
    assert (image.grad.flatten(1).abs().sum(1) > 0).tolist() == [False] * 4 + [True] * 4
    halves = [discriminator(image[i : i + 4], make_condition(8).rows(slice(i, i + 4))) for i in (0, 4)]
    torch.testing.assert_close(torch.cat(halves), discriminator(image, make_condition(8)))


def test_down_block_filters_before_it_halves():
    torch.manual_seed(0)
    block, x = DownBlock(3, 5), torch.randn(2, 3, 8, 8)
    taps = torch.tensor(TAPS, dtype=torch.float32)
    kernel = taps.outer(taps).expand(3, 1, 4, 4)
    smooth = F.conv2d(F.leaky_relu(block.conv1(x), 0.2), kernel, padding=2, groups=3)
    skip = block.skip(F.conv2d(x, kernel, padding=1, groups=3)[:, :, ::2, ::2])
    expected = (F.leaky_relu(F.conv2d(smooth, block.conv2.weight, block.conv2.bias, 2), 0.2) + skip) / 2**0.5
    torch.testing.assert_close(block(x), expected)


def noisy():
    generator = make(stylegan2, "Generator")
    for name, parameter in generator.named_parameters():
        if name.endswith("strength"):
            nn.init.ones_(parameter)
    return generator


def test_latent_holds_the_noise_of_every_convolution():
    generator, condition = noisy(), make_condition(3)
    assert generator.latent_channels == LATENT + 16 + 2 * 64 + 2 * 256
    latent = torch.randn(3, generator.latent_channels)
    z, maps = generator.unpacked(latent)
    assert torch.equal(z, latent[:, :LATENT])
    assert [each.shape[2] for each in maps] == [4, 8, 8, 16, 16]
    assert torch.equal(torch.cat([z, *(each.flatten(1) for each in maps)], 1), latent)
    image = generator(latent, condition)
    for begin, size in ((LATENT, 16), (LATENT + 16, 64), (LATENT + 144, 256)):
        other = latent.clone()
        other[:, begin : begin + size].neg_()
        assert (generator(other, condition) - image).abs().amax((1, 2, 3)).min() > 1e-3
    sizes = {"resolution": 16, "text_channels": TEXT, "text": nn.Identity(), "base_channels": 8, "max_channels": 32}
    assert stylegan2.Generator(latent_channels=LATENT, noise_up_to=0, **sizes).latent_channels == LATENT


def test_scale_of_the_latent_means_nothing():
    generator, condition = make(stylegan2, "Generator"), make_condition(2)
    z, _ = generator.unpacked(torch.randn(2, generator.latent_channels))
    torch.testing.assert_close(
        generator.mapping(7 * z, condition), generator.mapping(z, condition), rtol=1e-4, atol=1e-5
    )


def test_truncation_draws_towards_the_mean_style_of_the_caption():
    generator, condition = make(stylegan2, "Generator"), make_condition(3)
    z, noise_maps = generator.unpacked(latent := torch.randn(3, generator.latent_channels))
    means = []
    for row in range(3):  # each caption with each latent, one by one
        alone = condition.rows([row] * len(generator.draws))
        means.append(generator.mapping(generator.draws, alone).mean(0))
    mean, style = torch.stack(means), generator.mapping(z, condition)
    torch.testing.assert_close(generator.mapping.mean(generator.draws, condition), mean)
    generator.truncation = 0.7
    wanted = (mean + 0.7 * (style - mean))[:, None].expand(-1, generator.num_styles, -1)
    torch.testing.assert_close(generator(latent, condition), generator.synthesis(wanted, noise_maps, condition))
    generator.truncation = 0
    other = torch.cat([torch.randn(3, LATENT), latent[:, LATENT:]], 1)
    torch.testing.assert_close(generator(latent, condition), generator(other, condition))


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"mapping_layers=0: expected at least 1"):
        stylegan2.Generator(16, LATENT, TEXT, nn.Identity(), mapping_layers=0)
    with pytest.raises(UserError, match=r"group=0: expected at least 1"):
        stylegan2.Discriminator(16, TEXT, nn.Identity(), group=0)
