import os

import pytest
import torch
from torch import nn

from tests.backbones.reference import reference_inception
from trainer.backbones import inception
from trainer.backbones.inception import Inception, build, fold
from trainer.backbones.resize import bicubic, tf1_bilinear
from trainer.errors import UserError
from trainer.pretrained import weights

needs_reference = pytest.mark.skipif(
    "TORCH_FIDELITY" not in os.environ, reason="TORCH_FIDELITY names no folder with torch-fidelity"
)


@pytest.fixture(scope="module")
def images():
    """Of four contrasts and colours, so that their features differ."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, 3, 20, 28, generator=generator) - 0.5
    colours = torch.rand(4, 3, 1, 1, generator=generator)
    contrasts = torch.tensor([0.0, 0.1, 0.5, 1.0]).view(4, 1, 1, 1)
    return ((colours + contrasts * noise).clamp(0, 1) * 255).byte()


def small(resizer="clean"):
    """With weights of our own, small enough to keep every number finite."""
    torch.manual_seed(0)
    return Inception(resizer).eval()


@pytest.fixture(scope="module")
def network():
    return small()


@needs_reference
def test_features_and_logits_are_those_of_torch_fidelity(images):
    reference = reference_inception()
    ours = build(reference.state_dict(), "legacy")
    with torch.no_grad():
        features, logits = reference(images)
    spread = features.std(0).mean()
    assert spread > 0.05 * features.std()  # so that agreement means something
    assert (ours.features(images) - features).abs().max() < 1e-4 * spread
    assert (ours.logits(images) - logits).abs().max() < 1e-4 * logits.std(0).mean()
    clean = build(reference.state_dict(), "clean").features(images)
    assert (clean - features).abs().max() > 1e-2 * spread  # the resizer is part of the figure


@needs_reference
def test_every_published_weight_has_its_place():
    assert fold(reference_inception().state_dict()).keys() == Inception().state_dict().keys()


def test_folding_changes_nothing():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5, eps=1e-3).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.uniform_(0.5, 1.5)
    parts = nn.ModuleDict({"conv": conv, "bn": norm})
    published = {f"A.b.{key}": value for key, value in parts.state_dict().items()} | {"fc.bias": torch.ones(1)}
    folded = fold(published)
    assert set(folded) == {"A.b.weight", "A.b.bias", "fc.bias"}
    x = torch.randn(2, 3, 8, 8)
    expected = norm(conv(x))
    torch.testing.assert_close(nn.functional.conv2d(x, folded["A.b.weight"], folded["A.b.bias"]), expected)


def test_size_of_the_published_network():
    """21.8M of Szegedy et al. without their auxiliary head and class layer, batch normalisation folded in."""
    with torch.device("meta"):
        network = Inception()
    total = sum(p.numel() for p in network.parameters()) - 2048 * 1008 - 1008
    scales = sum(p.shape[0] for p in network.parameters() if p.ndim == 4)  # folded away
    assert total + scales == 21_785_568  # torchvision's inception_v3 without fc and AuxLogits


def test_average_does_not_count_the_padding(network):
    assert torch.allclose(inception._mean(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    pools = {name: block.pool for name, block in network.named_children() if name.startswith("Mixed")}
    assert pools["Mixed_7c"] is inception._max and pools["Mixed_7b"] is inception._mean


@pytest.mark.parametrize(("resizer", "resize"), [("clean", bicubic), ("legacy", tf1_bilinear)])
def test_features_follow_the_written_protocol(images, resizer, resize):
    network = small(resizer)
    with torch.no_grad():
        expected = network((resize(images, 299) - 128) / 128)
    features = network.features(images)
    assert features.shape == (4, 2048) == (4, network.width) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected)
    assert network.resizer == {"clean": "clean bicubic 299", "legacy": "legacy bilinear 299"}[resizer]
    torch.testing.assert_close(network.logits(images), expected @ network.fc.weight.detach().T)
    assert not features.requires_grad


def test_batches_are_cut_without_a_trace(network, images, monkeypatch):
    whole = network.features(images)
    monkeypatch.setattr(inception, "_AT_ONCE", 3)
    torch.testing.assert_close(network.features(images), whole)


def test_loading_verifies_and_draws_no_random_numbers(tmp_path, monkeypatch):
    published = {}
    for name, value in Inception().state_dict().items():
        conv, _, kind = name.rpartition(".")
        if conv == "fc":
            published[name] = value
        elif kind == "weight":
            ones, zeros = torch.ones(len(value)), torch.zeros(len(value))
            norm = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones - 1e-3}
            published |= {f"{conv}.conv.weight": value} | {f"{conv}.bn.{key}": each for key, each in norm.items()}
    file = tmp_path / "weights.pth"
    torch.save(published, file)
    with pytest.raises(UserError, match=r"backbone.path must be a copy of https://github.com/mseitzer"):
        inception.load(path=str(file))
    monkeypatch.setattr(inception, "SHA256", weights.sha256(file))
    state = torch.get_rng_state()
    network = inception.load("legacy", str(file))
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network.Mixed_5b.branch5x5_2.weight, published["Mixed_5b.branch5x5_2.conv.weight"])


def test_unknown_resizer():
    with pytest.raises(UserError, match=r"backbone.resizer=cleen: expected clean or legacy"):
        inception.load("cleen")
