"""VQGAN: its loss as written, gradients and all, and a discriminator that counts when it has learned."""

import pytest
import torch
from conftest_objectives import make_vqgan, random_batch, run
from torch.nn.functional import normalize, relu

from trainer.networks.patch import Discriminator
from trainer.objectives.vqgan import adaptive_weight

STARTED = {"discriminator_start_kimg": 1.0, "discriminator_ramp_kimg": 2.0, "adversarial_weight": 0.5}


def test_the_gradient_is_that_of_the_written_loss():
    objective, batch = make_vqgan(perceptual_weight=0.3, max_weight=1e9, **STARTED), random_batch().as_float()
    objective.images_seen = 2000  # half of the ramp
    loss, logs = objective.autoencoder_loss(batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in objective.autoencoder.named_parameters()}
    objective.zero_grad()
    back, passed, _ = objective.autoencoder(batch.image, batch.condition, torch.zeros(8, 0))
    see = objective.perceptual.network.see
    maps = [(normalize(x), normalize(y)) for x, y in zip(see(back), see(batch.image), strict=True)]
    perceptual = torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in maps]).mean(0)
    likeness = (back - batch.image).square().mean((1, 2, 3)) + 0.3 * perceptual
    adversarial = -objective.discriminator(back).mean((1, 2))
    slopes = [torch.autograd.grad(each.sum(), back, retain_graph=True)[0] for each in (likeness, adversarial)]
    weight = slopes[0].flatten(1).norm(dim=1) / slopes[1].flatten(1).norm(dim=1)
    expected = (likeness + passed.cost + 0.5 * 0.5 * weight * adversarial).mean()
    expected.backward()
    torch.testing.assert_close(logs["autoencoder/loss"], expected, rtol=1e-4, atol=1e-6)
    for name, parameter in objective.autoencoder.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-7)


def test_small_gradients_within_the_loss_are_there_in_fp16():
    """Of logits that hardly move: they have no loss scale, and fp16 ends at 6e-8."""
    objective, batch = make_vqgan(max_weight=1e9, **STARTED), random_batch().as_float()
    objective.images_seen = 2000
    with torch.no_grad():
        objective.discriminator.out.weight.mul_(1e-4)
    weights = []
    for half in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=half):
            weights.append(objective.autoencoder_loss(batch)[1]["autoencoder/adversarial_weight"])
    torch.testing.assert_close(weights[1], weights[0], rtol=0.05, atol=0)


def test_weight_is_a_clamped_ratio_of_norms_in_float32():
    likeness = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16)
    adversarial = torch.tensor([[0.0, 2.0], [0.0, 0.1], [1.0, 0.0]], dtype=torch.bfloat16)
    weight = adaptive_weight(likeness, adversarial, 10)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.tensor([2.5, 10, 0]), rtol=1e-5, atol=1e-5)


def test_the_discriminator_learns_before_it_counts():
    objective, batch = make_vqgan(**STARTED), random_batch().as_float()
    loss, logs = objective.autoencoder_loss(batch)
    assert "autoencoder/adversarial" not in logs
    torch.testing.assert_close(loss, logs["autoencoder/distortion"] + logs["autoencoder/perceptual"])
    back = objective.kept[0]
    real, fake = objective.discriminator(batch.image), objective.discriminator(back)
    assert not back.requires_grad
    loss, logs = objective.discriminator_loss(batch)
    torch.testing.assert_close(loss, (relu(1 - real) + relu(1 + fake)).mean())
    assert not objective.kept


@pytest.mark.parametrize(("images", "expected"), [(0, 0.0), (1000, 0.0), (1500, 0.25), (3000, 1.0), (9000, 1.0)])
def test_ramp(images, expected):
    objective = make_vqgan(**STARTED)
    objective.images_seen = images
    assert objective.ramp == expected


def test_both_networks_train_and_the_backbone_is_in_no_checkpoint():
    objective = make_vqgan(discriminator_start_kimg=0.01, discriminator_ramp_kimg=0.01, accumulate=2)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    run(objective, [random_batch(8, 8 * i) for i in range(4)], max_steps=4)
    moved = {key.split(".")[0] for key, value in objective.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"autoencoder", "discriminator"}
    assert "autoencoder/adversarial_weight" in objective.logs
    assert not [key for key in objective.state_dict() if "perceptual" in key]


def test_patches_are_judged_one_by_one():
    network = Discriminator(2, 4, 8)
    image = torch.randn(3, 3, 32, 32, requires_grad=True)
    logits = network(image)
    assert logits.shape == (3, 8, 8)
    logits[1, 0, 0].backward()
    seen = image.grad.abs().sum(1) > 0
    assert seen.flatten(1).any(1).tolist() == [False, True, False]
    assert not seen[1, 16:].any()
    network(torch.randn(3, 3, 32, 32)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
