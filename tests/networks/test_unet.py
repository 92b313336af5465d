"""Networks that start from a picture: shapes, gradients, no sample that sees another, and what they keep."""

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks import coarse_to_fine, residual_sr, unet
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.examples import examples
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.super_resolution import SuperResolution
from trainer.tasks.translation import Translation

CASES = {
    "inpainting": (unet, Inpainting()),
    "denoising": (unet, Denoising()),
    "colorization": (unet, Colorization()),
    "enlarging": (unet, SuperResolution()),
    "translation": (unet, Translation()),
    "coarse to fine": (coarse_to_fine, Translation()),
    "fine holes": (coarse_to_fine, Inpainting()),
    "x2": (residual_sr, SuperResolution()),
    "x4": (residual_sr, SuperResolution(scale=4)),
    "denoising or nothing": (unet, Denoising(source_dropout=0.5)),
    "colorization or nothing": (unet, Colorization(0.5)),
    "inpainting or nothing": (unet, Inpainting(source_dropout=0.5)),
    "enlarging or nothing": (unet, SuperResolution(source_dropout=0.5)),
    "coarse to fine or nothing": (coarse_to_fine, Translation(0.5)),
    "x4 or nothing": (residual_sr, SuperResolution(scale=4, source_dropout=0.5)),
}


TEXT = 24


def make_condition(count, length=6):
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(length)[None] < torch.arange(1, count + 1).clamp(max=length)[:, None]
    tokens = torch.randn(count, length, TEXT, generator=draw)
    return Condition(tokens, mask, torch.randn(count, TEXT, generator=draw))


def latents(network, count):
    return torch.randn(count, network.latent_channels)


def make(family, task):
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "max_channels": 32} if family is not residual_sr else {"channels": 16, "depth": 2}
    network = family.Generator(task, resolution=32, latent_channels=8, text_channels=TEXT, text=nn.Identity(), **sizes)
    for name, parameter in network.named_parameters():  # zero-initialised branches would hide a missing gradient
        if name.endswith(("out.weight", "image.weight")):
            nn.init.normal_(parameter, std=0.05)
    return network


def condition_of(network, count):
    return make_condition(count)._replace(source=examples(network, torch.arange(count)))


@pytest.mark.parametrize(("family", "task"), CASES.values(), ids=CASES)
def test_it_begins_as_the_tasks_start(family, task):
    torch.manual_seed(0)
    network = family.Generator(task, 32, latent_channels=8, text_channels=TEXT, text=nn.Identity())
    condition = condition_of(network, 3)
    images = network(latents(network, 3), condition)
    expected = task.keep(task.start(condition.source), condition.source)
    torch.testing.assert_close(images, expected.clamp(-1, 1), atol=0.2, rtol=0)  # its bias is no zero
    assert images.shape == (3, 3, 32, 32)


@pytest.mark.parametrize(("family", "task"), CASES.values(), ids=CASES)
def test_every_parameter_gets_a_gradient_and_no_sample_sees_another(family, task):
    network = make(family, task)
    condition = condition_of(network, 4)
    condition.source.requires_grad_()
    images = network(latents(network, 4), condition)
    assert images.abs().max() <= 1
    images[1].square().sum().backward()
    touched = condition.source.grad.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [False, True, False, False]
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize(("family", "task"), CASES.values(), ids=CASES)
def test_captions_latents_and_sources_change_the_image_and_padding_does_not(family, task):
    network = make(family, task).eval()
    condition, latent = condition_of(network, 4), latents(network, 4)
    with torch.no_grad():
        image = network(latent, condition)
        for other in (
            network(latent.flip(0), condition),
            network(latent, condition._replace(tokens=condition.tokens.flip(0), pooled=condition.pooled.flip(0))),
            network(latent, condition._replace(source=condition.source.flip(0))),
        ):
            assert not torch.allclose(image, other, atol=1e-4)
        condition.tokens[~condition.mask] = 1e3
        torch.testing.assert_close(network(latent, condition), image)


def test_pixels_that_are_no_hole_are_those_of_the_source():
    network = make(*CASES["inpainting"]).eval()
    condition = condition_of(network, 8)
    with torch.no_grad():
        image = network(latents(network, 8), condition)
    known = (condition.source[:, 3:] < 0).expand_as(image)
    torch.testing.assert_close(image[known], condition.source[:, :3][known])
    assert image[~known].abs().max() > 0


def test_what_has_gone_too_far_comes_back_and_goes_no_further():
    """A step goes against the gradient: 2 of 1 and -3 of -1 come back, the others would leave."""
    x = torch.tensor([-3.0, -3.0, 0.5, 2.0, 2.0], requires_grad=True)
    bounded = unet.bounded(x)
    assert bounded.tolist() == [-1.0, -1.0, 0.5, 1.0, 1.0]
    bounded.backward(torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [0.0, -1.0, -1.0, 1.0, 0.0]
    assert unet.bounded(x.detach()).tolist() == bounded.tolist()


def test_a_deformable_skip_begins_in_place_and_moves_by_the_flow():
    """One of (2 / 8, 0) of the width, which is 8 pixels, takes each pixel from its right neighbour."""
    bend, source = unet.Bend(4), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(bend(source, torch.randn(2, 4, 8, 8)), source)
    nn.init.zeros_(bend.flow.weight)
    bend.flow.weight.data[0, 4, 1, 1] = 2 / 8  # x of the flow from the first channel of what is wanted
    wanted = torch.zeros(2, 4, 8, 8)
    wanted[1, 0] = 1
    moved = bend(source, wanted)
    torch.testing.assert_close(moved[0], source[0])
    torch.testing.assert_close(moved[1, :, :, :-1], source[1, :, :, 1:])
    torch.testing.assert_close(moved[1, :, :, -1], source[1, :, :, -1])  # the edge is repeated


def test_deformable_skips_all_learn():
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "max_channels": 32, "deformable": True}
    network = unet.Generator(Translation(), 32, 8, TEXT, nn.Identity(), **sizes)
    nn.init.normal_(network.image.weight, std=0.05)
    network(latents(network, 4), condition_of(network, 4)).square().sum().backward()
    assert all(bend.flow.weight.grad.abs().sum() > 0 for bend in network.bends)
    assert len(network.bends) == len(network.joins)


def test_an_enhancer_does_not_enlarge():
    with pytest.raises(UserError, match="does not enlarge"):
        make(coarse_to_fine, SuperResolution())
