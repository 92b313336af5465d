"""GSN and deep image prior against their written formulas, and what they draw."""

import types
from functools import partial

import numpy as np
import pytest
import torch
from conftest_objectives import RESOLUTION, TEXT, loop_arguments, random_batch, run
from torch import nn

from trainer.errors import UserError
from trainer.networks.hourglass import Chain, FixedInput, Hourglass
from trainer.objectives.gsn import GSN
from trainer.objectives.image_prior import DeepImagePrior
from trainer.strategies.single import Single


def hourglass(in_channels=3):
    torch.manual_seed(0)
    sizes = {"base_channels": 4, "max_channels": 8, "style_channels": 8}
    network = Hourglass(RESOLUTION, TEXT, nn.Identity(), in_channels, **sizes)
    for attention in network.attention.values():
        nn.init.normal_(attention.out.weight, std=0.1)
    return network


def make_gsn(walkback=2, steps=3, sigma=0.5):
    return GSN(Chain(hourglass(), RESOLUTION, steps, sigma), walkback, **loop_arguments(("generator",)))


def make_prior(**settings):
    return DeepImagePrior(FixedInput(hourglass(5), RESOLUTION, 5, 0.1), **settings, **loop_arguments(("generator",)))


def with_pictures(prior, count=3):
    pictures = np.random.default_rng(0).integers(0, 256, (count, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    data = types.SimpleNamespace(train=types.SimpleNamespace(images=pictures))
    prior._trainer = types.SimpleNamespace(datamodule=data, strategy=Single("cpu"), global_step=0, world_size=1)
    prior.on_fit_start()
    return pictures


def test_the_walk_adds_noise_and_denoises():
    gsn, condition = make_gsn(), random_batch(4).as_float().condition
    latent = torch.randn(4, gsn.latent_channels)
    image, normals = torch.zeros(4, 3, RESOLUTION, RESOLUTION), latent.view(4, 3, 3, RESOLUTION, RESOLUTION)
    for step in range(3):
        image = gsn.generator.denoiser(image + 0.5 * normals[:, step], condition)
    torch.testing.assert_close(gsn.sample(latent, condition), image)


def test_walkback_trains_from_the_states_of_the_walk():
    gsn, batch = make_gsn(), random_batch(4).as_float()
    normals = [gsn.normal(f"generator/{k}", batch, batch.image[0].numel()).view_as(batch.image) for k in range(2)]
    start = batch.image.clone()
    start[gsn.uniform("generator/start", batch, 1)[:, 0] >= 0.5] = 0
    assert 0 < (start == 0).flatten(1).all(1).sum() < 4
    first = gsn.generator.denoiser(start + 0.5 * normals[0], batch.condition)
    second = gsn.generator.denoiser(first.detach() + 0.5 * normals[1], batch.condition)
    expected = ((first - batch.image).square().mean() + (second - batch.image).square().mean()) / 2
    loss, _ = gsn.generator_loss(batch)
    torch.testing.assert_close(loss, expected)
    (slope,) = torch.autograd.grad(loss, gsn.generator.denoiser.start.weight, retain_graph=True)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, gsn.generator.denoiser.start.weight)[0])


@pytest.mark.parametrize("make", [make_gsn, make_prior])
def test_every_parameter_is_trained(make):
    objective = make()
    if make is make_prior:
        with_pictures(objective)
        objective.on_fit_start = lambda: None
    before = {name: weight.clone() for name, weight in objective.named_parameters()}
    run(objective, [random_batch(4, 4 * i) for i in range(2)])
    assert not [name for name, weight in objective.named_parameters() if torch.equal(weight, before[name])]


def test_samples_do_not_see_each_other():
    network, batch = hourglass(), random_batch(4).as_float()
    batch.image.requires_grad_()
    network(batch.image, batch.condition)[1].sum().backward()
    assert (batch.image.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]


def test_the_prior_is_fitted_to_what_is_known_of_a_noisy_picture():
    prior, batch = make_prior(number=1, sigma=0.3, missing=0.4), random_batch(4).as_float()
    clean = torch.from_numpy(with_pictures(prior)[1]).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(prior.clean, clean)
    known = prior.known.bool().expand(3, -1, -1)
    assert prior.known.mean() == pytest.approx(0.6, abs=0.1)
    assert not prior.given[~known].any()
    assert (prior.given - clean)[known].std() == pytest.approx(0.3, rel=0.1)
    jitter = prior.normal("generator", batch, prior.latent_channels).view(4, 5, RESOLUTION, RESOLUTION)
    found = prior.generator.network(prior.generator.z + 0.1 * jitter, batch.condition)
    loss, logs = prior.generator_loss(batch)
    torch.testing.assert_close(loss, (found - prior.given)[:, known].square().mean())
    error = (found.clamp(-1, 1) - clean).square().mean() / 4
    torch.testing.assert_close(logs["generator/psnr"], -10 * error.log10())
    assert 0 <= prior.generator.z.min() and prior.generator.z.max() <= 0.1


def test_what_cannot_be_is_refused():
    for wrong in ({"walkback": 0}, {"steps": 0}, {"sigma": 0}):
        with pytest.raises(UserError, match="expected at least 1"):
            make_gsn(**wrong)
    for wrong in ({"number": -1}, {"sigma": -1}, {"missing": 1.0}):
        with pytest.raises(UserError, match="expected a picture from 0 on"):
            make_prior(**wrong)
    with pytest.raises(UserError, match=r"objective.number=3: there are 3 pictures"):
        with_pictures(make_prior(number=3))


def test_one_seed_is_one_image_whoever_it_is_drawn_with():
    gsn = make_gsn().eval().requires_grad_(False)
    batch = random_batch(16).as_float()
    latent = torch.randn(16, gsn.latent_channels)
    draw = partial(gsn.sample, condition=batch.condition.rows(slice(0, 3)))
    assert (draw(latent[:3]) - gsn.sample(latent, batch.condition)[:3]).abs().max() < 1e-4
