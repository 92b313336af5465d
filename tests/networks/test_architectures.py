"""Every network: shapes, a gradient for every parameter, and no sample that sees another."""

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import dcgan, r3gan, residual, stylegan2, transformer
from trainer.networks.autoencoder import Autoencoder
from trainer.networks.layers import PosteriorHead
from trainer.objectives.penalties import differentiable_twice

FAMILIES = [dcgan, residual, r3gan, stylegan2, transformer]
KINDS = ("Generator", "Discriminator", "Encoder")
TEXT, LATENT = 24, 8


def make_condition(num: int, length: int = 6) -> Condition:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(length)[None] < torch.arange(1, num + 1).clamp(max=length)[:, None]
    tokens = torch.randn(num, length, TEXT, generator=generator)
    return Condition(tokens, mask, torch.randn(num, TEXT, generator=generator))


def make(family, kind: str, resolution: int = 16) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "max_channels": 32}
    if family is transformer:
        sizes = {"width": 16, "depth": 2, "num_heads": 2}
    latent = {} if kind == "Discriminator" else {"latent_channels": LATENT}
    network = getattr(family, kind)(resolution=resolution, text_channels=TEXT, text=nn.Identity(), **latent, **sizes)
    for name, parameter in network.named_parameters():  # zero-initialised branches would hide a missing gradient
        if name.endswith(("out.weight", "narrow.weight", "strength")) and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def latents(network: nn.Module, count: int) -> torch.Tensor:
    return torch.randn(count, network.latent_channels)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resolution", [16, 24, 40, 64, 104, 128, 256])
def test_shapes(family, resolution):
    condition = make_condition(2)
    generator = make(family, "Generator", resolution).eval()
    image = generator(latents(generator, 2), condition)
    assert image.shape == (2, 3, resolution, resolution)
    assert image.abs().max() <= 1
    assert make(family, "Discriminator", resolution)(image, condition).shape == (2,)
    if hasattr(family, "Encoder"):
        mean, log_variance = make(family, "Encoder", resolution)(image, condition)
        assert mean.shape == log_variance.shape == (2, LATENT)


@pytest.mark.parametrize("resolution", [16, 104])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(family, resolution):
    condition = make_condition(4)
    generator, discriminator = made = [make(family, kind, resolution) for kind in KINDS[:2]]
    discriminator(generator(latents(generator, 4), condition), condition).square().sum().backward()
    if hasattr(family, "Encoder"):
        made.append(make(family, "Encoder", resolution))
        mean, log_variance = made[-1](torch.randn(4, 3, resolution, resolution), condition)
        (mean.square() + log_variance).sum().backward()
    for network in made:
        dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not dead


@pytest.mark.parametrize(("family", "kind"), [(f, kind) for f in FAMILIES for kind in KINDS if hasattr(f, kind)])
def test_samples_are_independent(family, kind):
    network, condition = make(family, kind), make_condition(4)
    if hasattr(network, "group"):
        network.features.deviation.group = 1  # what it compares is seen in test_stylegan2.py
    first = (latents(network, 4) if kind == "Generator" else torch.randn(4, 3, 16, 16)).requires_grad_()
    condition.tokens.requires_grad_()
    out = network(first, condition)
    out = out[0] if isinstance(out, tuple) else out
    out[1].sum().backward()
    for gradient in (first.grad, condition.tokens.grad):
        touched = gradient.flatten(1).abs().sum(1) > 0
        assert touched.tolist() == [False, True, False, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_not_read(family):
    generator, condition = make(family, "Generator"), make_condition(4)
    latent = latents(generator, 4)
    before = generator(latent, condition)
    condition.tokens[~condition.mask] = 1e3
    torch.testing.assert_close(generator(latent, condition), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_change_the_image_and_the_logits(family):
    condition = make_condition(4)
    other = Condition(condition.tokens.flip(0), condition.mask, condition.pooled)
    generator, discriminator = make(family, "Generator"), make(family, "Discriminator")
    latent = latents(generator, 4)
    image = generator(latent, condition)
    assert (generator(latent, other) - image).abs().amax((1, 2, 3)).min() > 1e-4
    assert (discriminator(image, other) - discriminator(image, condition)).abs().min() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_discriminators_differentiate_twice(family):
    discriminator, image = make(family, "Discriminator"), torch.randn(2, 3, 16, 16, requires_grad=True)
    with differentiable_twice("cpu"):
        logits = discriminator(image, make_condition(2))
    (slope,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    slope.square().sum().backward()
    assert discriminator.features.image.weight.grad.abs().sum() > 0


def test_feature_split_equals_forward():
    for family in FAMILIES:
        discriminator, condition = make(family, "Discriminator"), make_condition(3)
        image = torch.randn(3, 3, 16, 16)
        split = discriminator.logits(discriminator.features(image), condition)
        torch.testing.assert_close(split, discriminator(image, condition))


def test_autoencoder_reparameterises():
    autoencoder = Autoencoder(make(dcgan, "Encoder"), make(dcgan, "Generator"))
    condition, image, noise = make_condition(3), torch.randn(3, 3, 16, 16), torch.randn(3, LATENT)
    reconstruction, mean, log_variance = autoencoder(image, condition, noise)
    latent = mean + log_variance.exp().sqrt() * noise
    torch.testing.assert_close(reconstruction, autoencoder.decoder(latent, condition))


@pytest.mark.parametrize("patch", [2, 4])
def test_patches_are_laid_out_as_sub_pixel_convolution_has_them(patch):
    maps = torch.randn(2, 3 * patch**2, 5, 7).to(memory_format=torch.channels_last)
    assert torch.equal(dcgan.shuffled(maps, patch), nn.functional.pixel_shuffle(maps, patch))


def test_resolution_is_checked():
    for resolution in (8, 1032):
        with pytest.raises(UserError, match=f"resolution {resolution}: expected 16 to 1024"):
            make(residual, "Generator", resolution)


def test_a_posterior_beyond_its_bounds_comes_back():
    head = PosteriorHead(channels=2, text_channels=4, head_channels=8, latent_channels=3)
    bias = torch.tensor([0.0, 0.0, 0.0, 50.0, -50.0, 1.0])
    head.out.weight.data.zero_()
    head.out.bias.data.copy_(bias)
    condition = Condition(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 4))
    mean, log_variance = head(torch.zeros(1, 2, 4, 4), condition)
    assert log_variance.tolist() == [[6, -12, 1]]
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    kl.backward()
    assert head.out.bias.grad[3] > 0 > head.out.bias.grad[4]


def test_patches_are_judged_beside_the_whole_image():
    torch.manual_seed(0)
    network = dcgan.Discriminator(32, TEXT, nn.Identity(), base_channels=8, max_channels=32, patches=2)
    image, condition = torch.randn(4, 3, 32, 32).requires_grad_(), make_condition(4)
    logits = network(image, condition)
    assert logits.shape == (4, 3, 256)
    whole, *maps = network.features(image)
    assert [each.shape[1:] for each in (whole, *maps)] == [(32, 4, 4), (16, 16, 16), (32, 8, 8)]
    assert torch.equal(whole, plain_trunk(network)(image))
    torch.testing.assert_close(logits[:, 0], network.head(whole, condition)[:, None].expand(-1, 256))
    for number, each in enumerate(maps):
        head = network.patches[number]
        of_places = head.out(nn.functional.leaky_relu(head.mix(each), 0.2)).flatten(1)
        torch.testing.assert_close(logits[:, 1 + number].mean(1), of_places.mean(1))
        assert set(logits[0, 1 + number].tolist()) == set(of_places[0].tolist())
    (slope,) = torch.autograd.grad(logits[0, 1, 0], image, retain_graph=True)
    assert slope[0, :, :8, :8].any() and not slope[1:].any() and not slope[0, :, 8:].any(), "a place sees its patch"
    other = network.logits((whole, *maps), condition.rows([1, 0, 3, 2]))
    assert torch.equal(other[:, 1:], logits[:, 1:]) and not torch.equal(other[:, 0], logits[:, 0])
    logits.square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    small = dcgan.Discriminator(16, TEXT, nn.Identity(), patches=2)
    assert small(image[..., :16, :16], condition).shape == (4, 2, 64)
    with pytest.raises(UserError, match=r"discriminator\.patches=-1: expected a number of maps"):
        dcgan.Discriminator(32, TEXT, nn.Identity(), patches=-1)


def plain_trunk(network):
    trunk = dcgan.Trunk(32, 8, 32)
    trunk.load_state_dict(network.features.state_dict())
    return trunk


def test_resizing_leaves_no_checkerboard_where_a_map_is_even():
    for name, even in (("nearest", True), ("transposed", False)):
        made = dcgan.UPSAMPLING[name](3, 2)(torch.ones(1, 3, 8, 8))
        assert made.shape == (1, 2, 16, 16)
        inside = made[:, :, 4:-4, 4:-4]
        assert ((inside - inside[:, :, :1, :1]).abs().max() < 1e-5) == even
    with pytest.raises(UserError, match="upsampling=bilinear: expected transposed or nearest"):
        dcgan.Generator(16, 4, 8, nn.Identity(), upsampling="bilinear")
