"""Networks at other sizes than their own: what they draw and read, and that nothing else of them changes."""

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import (
    attngan,
    dcgan,
    multiscale,
    progressive,
    projected,
    r3gan,
    residual,
    stylegan2,
    transformer,
    unet,
)  # fmt: skip
from trainer.networks.autoencoder import Autoencoder
from trainer.networks.matching import ImageEncoder
from trainer.networks.quantizers import FSQ, VQ, Gaussian
from trainer.networks.sized import canvases, check_canvas, drawing, fitted, maps_at, takes_any_size
from trainer.networks.stylegan2 import noise_map, sizes_of_convs
from trainer.networks.tokenizer import Decoder, Encoder, Tokenizer
from trainer.size import Size
from trainer.tasks.inpainting import Inpainting

FAMILIES = [dcgan, residual, r3gan, stylegan2, transformer, progressive, attngan]
SIZES = [Size(32, 96), Size(40, 24), Size(64, 64)]
TEXT = 24


def make(family, kind, resolution=32):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "max_channels": 32}
    if family is transformer:
        sizes = {"width": 16, "depth": 2, "num_heads": 2}
    latent = {} if kind == "Discriminator" else {"latent_channels": 8}
    network = getattr(family, kind)(resolution=resolution, text_channels=TEXT, text=nn.Identity(), **latent, **sizes)
    for name, parameter in network.named_parameters():  # what begins at zero would hide a missing gradient
        if name.endswith(("out.weight", "narrow.weight", "strength")) and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


class Squares(nn.Module):
    """Features at four scales, of images as they are."""

    def see(self, images):
        return [nn.functional.avg_pool2d(images, 1 << level) for level in range(4)]


def latents(network, count):
    return torch.randn(count, network.latent_channels)


def make_condition(count, length=6):
    mask = torch.arange(length)[None] < torch.arange(1, count + 1)[:, None] + 1
    return Condition(torch.randn(count, length, TEXT), mask, torch.randn(count, TEXT))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_of_any_size_are_drawn_and_read(family, size):
    condition = make_condition(3)
    generator = make(family, "Generator", 32).eval()
    assert takes_any_size(generator)
    z = latents(generator, 3)
    own = generator(z, condition)
    with drawing(size, canvases(generator.modules())):
        image = generator(z, condition)
        one = generator(z[1:2], condition.rows(slice(1, 2)))
    assert image.shape == (3, 3, *size)
    assert torch.allclose(one, image[1:2], atol=1e-5), "no sample sees another"
    assert torch.equal(generator(z, condition), own), "nothing of it stays"
    with drawing(Size(32, 32), canvases(generator.modules())):
        assert torch.equal(generator(z, condition), own), "its own size is no other"
    discriminator = make(family, "Discriminator", 32)
    assert takes_any_size(discriminator)
    assert len(discriminator(image, condition)) == 3
    if hasattr(family, "Encoder"):
        encoder = make(family, "Encoder", 32)
        assert takes_any_size(encoder) and encoder(image, condition)[0].shape == (3, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns_from_another_size(family):
    condition = make_condition(4)
    generator, discriminator = make(family, "Generator", 32), make(family, "Discriminator", 32)
    with drawing(Size(24, 56), canvases([*generator.modules(), *discriminator.modules()])):
        image = generator(latents(generator, 4), condition)
        if family is attngan:
            image = attngan.packed(generator.stages(latents(generator, 4), condition))
        discriminator(image, condition).sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            found = parameter.grad is not None and parameter.grad.abs().sum() > 0
            of_smaller = family is progressive and "images." in name  # images are those of the largest maps
            assert found or of_smaller, name


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("bottleneck", [FSQ([5, 4]), VQ(16, 4), Gaussian(2)], ids=lambda each: type(each).__name__)
def test_a_tokenizer_of_any_size(bottleneck, size):
    torch.manual_seed(0)
    widths = {"base_channels": 8, "max_channels": 16}
    tokenizer = Tokenizer(Encoder(32, 8, **widths), bottleneck, Decoder(32, 8, TEXT, nn.Identity(), **widths))
    assert takes_any_size(tokenizer)
    for _, parameter in tokenizer.named_parameters():
        if not parameter.any():  # as a reader of words begins
            nn.init.normal_(parameter, std=0.1)
    image, condition = torch.randn(3, 3, *size), make_condition(3)
    normals = torch.randn(3, tokenizer.num_draws(image))
    back, passed, _ = tokenizer(image, condition, normals)
    assert back.shape == image.shape
    alone = tokenizer(image[1:2], condition.rows(slice(1, 2)), normals[1:2])[0]
    assert torch.allclose(alone, back[1:2], atol=1e-5)
    (back.square().mean() + passed.cost.mean()).backward()
    left = [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert left == [], "words are read at every level that reads them at its own size"


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_compares_reads_any_size(size):
    image = torch.randn(2, 3, *size)
    whole, regions = ImageEncoder(32, 6, base_channels=4, max_channels=8)(image)
    assert whole.shape == (2, 6) and regions.shape == (2, 6, 4, 4)
    judge = projected.Discriminator(32, TEXT, nn.Identity(), Squares, mixed_channels=4, head_channels=8, pixels=4)
    assert takes_any_size(judge)
    condition = make_condition(2)
    logits = judge(image, condition)
    assert logits.shape == (2, 5)
    assert torch.allclose(logits[:, 4], judge(fitted(image, Size(32, 32)), condition)[:, 4], atol=1e-6)


def test_what_it_draws_keeps_its_places():
    """A start that is bright on the right is so at any size."""
    generator = make(dcgan, "Generator", 32)
    with torch.no_grad():
        generator.start.bias.view(4, 4, -1)[:, 2:] += 50
        for part in generator.ups:
            for weight in part.parameters():
                weight.abs_()
    z, condition = latents(generator, 2), make_condition(2)
    for size in (Size(32, 32), Size(32, 96), Size(96, 32)):
        with drawing(size, canvases(generator.modules())):
            image = generator(z, condition)
        left, right = image[..., : size.width // 2].mean(), image[..., size.width // 2 :].mean()
        assert (right - left).abs() > 0.01, size


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_net_of_an_image_task_and_its_judge_take_any_size(size):
    generator = unet.Generator(Inpainting(), 32, 8, 24, nn.Identity(), 8, 16, 16)
    nn.init.normal_(generator.image.weight, std=0.1)
    condition = make_condition(2)._replace(source=torch.rand(2, 4, *size))
    image = generator(torch.randn(2, 8), condition)
    assert image.shape == (2, 3, *size) and takes_any_size(generator)
    judge = multiscale.Discriminator(32, 24, nn.Identity(), num_scales=1, num_downs=2, base_channels=8)
    assert judge(image, condition).shape[:2] == (2, 1) and takes_any_size(judge)


def test_noise_maps_of_another_size_are_of_the_same_numbers():
    values = torch.arange(2 * 16.0).view(2, 16)
    assert noise_map(values, Size(2, 8)).flatten(1).equal(values)
    assert noise_map(values, Size(3, 5)).flatten(1).equal(values[:, :15])
    more = noise_map(values, Size(3, 6)).flatten(1)
    assert more[:, :16].equal(values) and more[:, 16:].equal(values[:, :2])
    generator = make(stylegan2, "Generator", 32)
    _, maps = generator.unpacked(latents(generator, 2))
    assert [Size(*each.shape[2:]) for each in maps if each is not None] == [s for s in generator.noise_sizes if any(s)]
    with drawing(Size(32, 96), canvases(generator.modules())):
        _, maps = generator.unpacked(latents(generator, 2))
    assert [*maps[0].shape[2:]] == [4, 12] and maps[0].std() > 0.5
    assert sizes_of_convs([Size(4, 6), Size(9, 12)]) == [Size(4, 6), Size(8, 12), Size(9, 12)]


def test_maps_are_halved_as_often():
    own = [Size(4, 4), Size(8, 8), Size(16, 16)]
    assert maps_at(None, own) is own
    assert maps_at(Size(40, 24), own) == [Size(10, 6), Size(20, 12), Size(40, 24)]
    x = torch.randn(2, 3, 4, 5)
    assert fitted(x, Size(4, 5)) is x
    assert torch.allclose(fitted(torch.ones_like(x), Size(7, 3)), torch.ones(2, 3, 7, 3))


def test_what_has_one_size_says_so():
    assert not takes_any_size(nn.Linear(2, 2)) and not takes_any_size(nn.Identity())
    whole = Autoencoder(make(dcgan, "Encoder"), make(dcgan, "Generator"))
    assert takes_any_size(whole)
    assert not takes_any_size(Autoencoder(make(dcgan, "Encoder"), nn.Linear(2, 2)))
    with pytest.raises(UserError, match=r"resolution=48: Linear draws one size; leave it out"):
        check_canvas(nn.Linear(2, 2), 48)
    generator = make(dcgan, "Generator", 256)
    assert check_canvas(generator, [64, 128]) == Size(64, 128)
    with pytest.raises(UserError, match=r"resolution=\[40, 128\]: expected sides from 64 pixels, of"):
        check_canvas(generator, [40, 128])
    with pytest.raises(UserError, match=r"resolution=8: expected sides from 16 pixels"):
        check_canvas(make(dcgan, "Generator", 16), 8)
