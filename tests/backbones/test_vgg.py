import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.backbones import vgg
from trainer.errors import UserError
from trainer.pretrained import weights

CONVOLUTIONS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
CONVOLUTIONS |= {17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}


@pytest.fixture(scope="module")
def trunk():
    """Random weights under the names of torchvision's file, those of the classes included."""
    generator = torch.Generator().manual_seed(0)
    published = {"classifier.0.weight": torch.zeros(1)}
    for number, (before, after) in CONVOLUTIONS.items():
        weight = torch.empty(after, before, 3, 3).normal_(0, (2 / (9 * before)) ** 0.5, generator=generator)
        bias = torch.empty(after).normal_(0, 0.1, generator=generator)
        published |= {f"features.{number}.weight": weight, f"features.{number}.bias": bias}
    return published


@pytest.fixture(scope="module")
def linear():
    generator = torch.Generator().manual_seed(1)
    widths = enumerate((64, 128, 256, 512, 512))
    return {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for i, width in widths}


@pytest.fixture
def pairs():
    """Noise, beside a darker copy, other noise and itself."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 40, 33), dtype=torch.uint8, generator=generator)
    other = torch.randint(0, 256, (3, 40, 33), dtype=torch.uint8, generator=generator)
    return images, torch.stack([images[0] // 2, other, images[2]])


def written_formula(trunk, linear, images, others):
    """Equation 1 of the paper, in float64, from the weights as they are published."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    x, y = ((each.double() / 255 - mean) / std for each in (images, others))
    total = 0
    taken = {2: 0, 7: 1, 14: 2, 21: 3, 28: 4}
    for number in CONVOLUTIONS:
        if number in (5, 10, 17, 24):
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        weight, bias = (trunk[f"features.{number}.{kind}"].double() for kind in ("weight", "bias"))
        x, y = (F.conv2d(each, weight, bias, padding=1).relu() for each in (x, y))
        if number in taken:
            a, b = (each / each.square().sum(1, keepdim=True).sqrt() for each in (x, y))
            w = linear[f"lin{taken[number]}.model.1.weight"].double()
            total = total + (w * (a - b) ** 2).sum(1).mean((1, 2))
    return total


def test_distance_is_the_written_formula(trunk, linear, pairs):
    distances = vgg.build(trunk, linear)(*pairs)
    assert distances.shape == (3,) and distances.dtype == torch.float32 and distances[2] == 0
    assert distances[0] > 0.1 and distances[1] > 0.1
    expected = written_formula(trunk, linear, *pairs)
    torch.testing.assert_close(distances[:2].double(), expected[:2], rtol=1e-3, atol=0)


def test_distance_is_that_of_torchmetrics(trunk, linear, pairs, monkeypatch):
    from torchmetrics.functional.image import lpips

    def features(net, pretrained):
        layers = [nn.ReLU() for _ in range(31)]
        for number, (before, after) in CONVOLUTIONS.items():
            layers[number] = nn.Conv2d(before, after, 3, padding=1)
        for number in (4, 9, 16, 23, 30):
            layers[number] = nn.MaxPool2d(2)
        layers = nn.Sequential(*layers)
        layers.load_state_dict({k.removeprefix("features."): v for k, v in trunk.items() if k.startswith("features")})
        return layers

    monkeypatch.setattr(lpips, "_get_tv_model_features", features)  # its own needs torchvision
    reference = lpips._NoTrainLpips(net="vgg", pretrained=False)
    reference.load_state_dict(linear, strict=False)
    with torch.no_grad():
        expected = reference(*(each / 255 for each in pairs), normalize=True).flatten()
    torch.testing.assert_close(vgg.build(trunk, linear)(*pairs), expected, rtol=1e-4, atol=1e-6)


def test_batches_are_cut_without_a_trace(trunk, linear, pairs, monkeypatch):
    network = vgg.build(trunk, linear)
    whole = network(*pairs)
    monkeypatch.setattr(vgg, "_AT_ONCE", 2)
    torch.testing.assert_close(network(*pairs), whole)


def test_mistakes(trunk, linear):
    network = vgg.build(trunk, linear)
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match="expected one shape"):
        network(image, image.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="16 or larger"):
        network(image[..., 1:], image[..., 1:])


def test_loads_the_layers_of_torchmetrics_beside_a_trunk(trunk, tmp_path, monkeypatch):
    file = tmp_path / "vgg16.pth"
    torch.save(trunk, file)
    with pytest.raises(UserError, match=r"lpips must be a copy of https://download.pytorch.org/models/vgg16"):
        vgg.load(str(file))
    monkeypatch.setattr(vgg, "TRUNK_SHA256", weights.sha256(file))
    network = vgg.load(str(file))
    assert all(weight.min() >= 0 and weight.max() > 0 for weight in network.weights)  # the authors kept them positive
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    monkeypatch.setattr(vgg, "LINEAR_SHA256", "0" * 64)
    with pytest.raises(UserError, match="torchmetrics is absent or altered: pip install"):
        vgg.load(str(file))
    monkeypatch.setattr(vgg.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="torchmetrics is absent or altered: pip install"):
        vgg.load(str(file))
