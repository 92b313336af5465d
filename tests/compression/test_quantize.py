"""8-bit layers: bounds, independence of images, the same numbers with and without int8 kernels."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.compression import quantized
from trainer.compression.fold import fold
from trainer.compression.quantize import closest, decibels, in_8_bits, quantize, within
from trainer.compression.quantized import QuantizedConv2d, QuantizedEmbedding, QuantizedLinear, has_int8_kernels
from trainer.compression.subpixel import of_transposed
from trainer.errors import UserError
from trainer.networks import transformer

from .conftest import TEXT, make, node_of

# PSNR in dB against float on networks of random weights, whose images are noise of the full range
LEVELS = {("int8", "float"): 43, ("fp8", "float"): 31, ("int8", "static"): 36, ("int8", "dynamic"): 38}
KERNELS_DB = 50  # kernels against float: sums round otherwise, and a level of the next layer may differ by one
MODES = pytest.mark.parametrize(("weights", "activations"), LEVELS)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of images in [-1, 1], in dB."""
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@MODES
def test_quality_and_return(generator, inputs, saved, weights, activations):
    node, network = generator
    before = {key: value.clone() for key, value in network.state_dict().items()}
    small = quantize(network, inputs, weights, activations)
    assert not any(type(module) in (nn.Conv2d, nn.Linear, nn.ConvTranspose2d) for module in small.modules())
    back = saved(node, network, small)
    deep = 6 * isinstance(network, transformer.Generator)  # dB: a layer norm behind every layer, and no other sums
    for batch in inputs:
        assert psnr(small(*batch), network(*batch)) > LEVELS[weights, activations] - deep
        assert torch.equal(back(*batch), small(*batch))
    stored = sum(value.nbytes for value in small.state_dict().values())
    assert stored < sum(value.nbytes for value in before.values()) / 3  # a quarter, and the scales
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@MODES
def test_an_image_does_not_depend_on_others(generator, inputs, weights, activations):
    network = quantize(generator[1], inputs, weights, activations)
    batches = [inputs[i % 2] for i in range(8)]  # 32 images: float linear layers sum in one order from 16 rows on
    latent = torch.cat([each for each, _ in batches])
    condition = Condition.cat([each for _, each in batches])
    images = network(latent, condition)
    louder = latent.clone()
    louder[1:] *= 5  # would widen a range that samples share
    assert torch.equal(network(louder, condition)[0], images[0])
    order = torch.randperm(len(latent), generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(latent[order], condition.rows(order)), images[order])


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 1, bias=False)], ids=str)
def test_rounding_of_weights_is_at_most_half_a_step(layer):
    kind = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedConv2d
    small = kind.like(layer, "int8", *["float"] * (kind is QuantizedConv2d))
    small.fill(layer)
    error = (small.float_weight() - layer.weight).detach().abs()
    assert small.weight.abs().amax() == 127
    assert (error <= small.along_outputs(small.scale) * 0.5001).all()
    assert error.max() > 0


def test_fp8_rounds_to_three_bits_of_mantissa():
    layer = nn.Linear(64, 8)
    small = QuantizedLinear.like(layer, "fp8")
    small.fill(layer)
    error = (small.float_weight() - layer.weight).detach().abs()
    assert (error <= layer.weight.abs() / 16 * 1.001 + small.scale[:, None] * 2.0**-10).all()  # 2^-9 is its smallest


@pytest.mark.parametrize("activations", ["static", "dynamic"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(16, 24, 3, padding=1), (2, 16, 6, 5)),
        (nn.Conv2d(16, 8, 3, stride=2, padding=1, bias=False), (2, 16, 6, 6)),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 6)),
    ],
)
def test_a_layer_against_the_formula(layer, shape, activations):
    """y = W^ x^ + b with x^ = step * (floor(x / step + zero + 1/2) - zero), by kernels and by float arithmetic."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    small = QuantizedConv2d.like(layer.requires_grad_(False), "int8", activations)
    small.fill(layer)
    small.read(float(x.min()), float(x.max()))
    zero = int(small.zero)
    step = small.step_of(x) if activations == "dynamic" else small.step
    read = step * ((x / step + zero + 0.5).floor().clamp(0, 255) - zero)
    assert (read - x).abs().max() <= 0.51 * torch.as_tensor(step).max()
    rounded = deepcopy(layer)
    rounded.weight.copy_(small.float_weight())
    expected = rounded(read)
    assert (small(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.skipif(not has_int8_kernels(), reason="this CPU has no VNNI")
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_float_arithmetic_gives_the_same_images(generator, inputs, activations, monkeypatch):
    fast = quantize(generator[1], inputs, activations=activations)
    assert all(module.packed is not None for module in fast.modules() if isinstance(module, QuantizedConv2d))
    monkeypatch.setattr(quantized, "has_int8_kernels", lambda: False)
    slow = deepcopy(fast)
    assert all(module.packed is None for module in slow.modules() if isinstance(module, QuantizedConv2d))
    assert psnr(slow(*inputs[0]), fast(*inputs[0])) > KERNELS_DB
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert psnr(fast(*inputs[0]), slow(*inputs[0])) > KERNELS_DB


def test_after_fold(generator, inputs, saved):
    node, network = generator
    folded = fold(network, inputs)
    small = quantize(folded, inputs)
    assert psnr(small(*inputs[1]), network(*inputs[1])) > LEVELS["int8", "static"]
    assert torch.equal(saved(node, network, small)(*inputs[0]), small(*inputs[0]))


def test_skipped_parts_stay(inputs):
    network = quantize(make(node_of("dcgan")), inputs, skip=["image", "style.text"])
    assert type(network.image) is nn.Conv2d
    assert type(network.style.text.key) is nn.Linear
    assert type(network.style.mix[0]) is QuantizedLinear


def test_the_range_of_least_error():
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).abs()
    assert closest(values)[0] == 0
    outlier = torch.cat([values.repeat(20), torch.tensor([8.0])])
    assert closest(outlier)[1] < 8  # one value is cut off where that rounds all others less
    assert closest(torch.tensor([-1.0, 0.0, 2.0])) == (-1.0, 2.0)


def test_mistakes_are_told(inputs):
    network = make(node_of("dcgan"))
    with pytest.raises(UserError, match="weights=fp8 with activations=static"):
        quantize(network, inputs, "fp8", "static")
    with pytest.raises(UserError, match="weights=int4"):
        quantize(network, inputs, "int4")
    with pytest.raises(UserError, match="no float layer left"):
        quantize(quantize(network, inputs), inputs)


def test_a_machine_without_kernels_says_so(inputs, monkeypatch, capsys):
    monkeypatch.setattr("trainer.compression.quantize.has_int8_kernels", lambda: False)
    quantize(make(node_of("dcgan")), inputs)
    assert "no int8 kernels" in capsys.readouterr().err


def test_subpixel_keeps_one_scale_a_phase():
    up = of_transposed(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1))
    assert QuantizedConv2d.like(up.conv, "int8", "float").scale.shape == (24,)


@pytest.mark.parametrize("asked", [52, 62])
def test_images_stay_as_near_as_asked(inputs, asked, capsys):
    network = fold(make(node_of("dcgan")), inputs)
    small = quantize(network, inputs, activations="float", psnr=asked)
    near = min(psnr(small(*batch), network(*batch)) for batch in inputs)
    assert near > asked - 2  # errors of several layers add up within that
    kept = [layer for layer in small.modules() if isinstance(layer, (QuantizedConv2d, QuantizedLinear))]
    assert f"8 bits: {len(kept)} of " in capsys.readouterr().err
    more = quantize(network, inputs, activations="float", psnr=asked - 12)
    assert len(kept) < len([each for each in more.modules() if isinstance(each, (QuantizedConv2d, QuantizedLinear))])


def test_of_two_layers_the_one_stays_that_moves_images_more_for_its_size():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 3)).requires_grad_(False)

    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network

        def forward(self, latent, condition):
            return self.layers(latent)[:, :, None, None]

    latent, moved = torch.randn(32, 8), {}
    layers = {path: layer for path, layer in Drawing().named_modules() if isinstance(layer, nn.Linear)}
    for number, path in enumerate(layers):
        other = deepcopy(network)
        other[number].weight.copy_(in_8_bits(network[number], "int8", "float").float_weight())
        moved[path] = float((other(latent) - network(latent)).square().mean())
    either = decibels(1.01 * max(moved.values()))  # each alone is near enough, both are not
    cheaper = min(moved, key=lambda path: moved[path] / layers[path].weight.numel())
    for order in (layers, dict(reversed(layers.items()))):
        assert list(within(either, Drawing(), order, [(latent, None)], "int8")) == [cheaper]
    assert len(within(either - 6, Drawing(), layers, [(latent, None)], "int8")) == 2


def test_nearer_than_any_layer_is_refused(inputs):
    with pytest.raises(UserError, match=r"psnr=150: in 8 bits no layer leaves images so near; expected up to \d\d"):
        quantize(make(node_of("dcgan")), inputs, psnr=150)


def test_words_have_a_scale_each(inputs, saved):
    text = {"_target_": "trainer.text.scratch.TextTransformer", "width": TEXT, "channels": 24, "num_layers": 1}
    text |= {"num_heads": 2, "vocabulary": 500, "max_tokens": 8}
    node = {"_target_": "trainer.networks.worded.WordedGenerator", "text": text, "generator": node_of("dcgan")}
    network = make(node)
    network.text.words.weight[7] *= 100
    ids = torch.arange(24).view(4, 6) * 20
    batch = inputs[0][0][:4], Condition(ids, ids >= 0, torch.empty(4, 0))
    small = quantize(network, [batch], "int8", "float")
    words, old = small.text.words, network.text.words.weight
    assert type(words) is QuantizedEmbedding and words.weight.dtype == torch.int8
    assert ((words(ids) - old[ids]).abs() <= old[ids].abs().amax(-1, keepdim=True) / 127 / 2 * 1.001).all()
    assert psnr(small(*batch), network(*batch)) > LEVELS["int8", "float"]
    back = saved(node, network, small)
    assert torch.equal(back(*batch), small(*batch)) and type(back.text.words) is QuantizedEmbedding
    assert type(quantize(network, [batch], "int8", "float", ["text"]).text.words) is nn.Embedding
