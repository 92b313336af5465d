"""Few images in onnxruntime: the network's own within a grey level, and the network wherever that cannot be."""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.compression.conftest import TEXT, inputs, make, node_of  # noqa: F401
from trainer import noise
from trainer.batch import Condition
from trainer.compression.fold import fold
from trainer.compression.subpixel import of_transposed
from trainer.errors import UserError
from trainer.exports import onnx, small_batches
from trainer.exports.drawing import Drawing
from trainer.exports.program import Transposed, for_onnx
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.runtime import compiled, is_compiled
from trainer.sampling.sampler import Sampler, as_pixels

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
BOUND = 1e-4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/onnxruntime"


@pytest.fixture
def batch(inputs):  # noqa: F811
    """16 latents and captions of different lengths."""
    latents = torch.cat([latent for latent, _ in inputs] * 2) + torch.arange(16)[:, None] / 16
    return latents, Condition.cat([each for _, each in inputs] * 2)


def rows(batch, count):
    return batch[0][:count], batch[1].rows(slice(count))


def test_a_folded_network_is_written_in_few_calls(batch, cache):
    import onnx as package

    network = fold(make(node_of("dcgan")))
    before = {name: id(module) for name, module in network.named_modules()}
    small_batches.onnxruntime(network)
    with torch.inference_mode():
        network(*rows(batch, 1))
    assert {name: id(module) for name, module in network.named_modules()} == before, "it stays as it was"
    (path,) = cache.glob("*.onnx")
    calls = [node.op_type for node in package.load(path).graph.node]
    assert calls.count("ConvTranspose") == len(network.ups) + 1 and not {"Conv", "ReduceL2"} & {*calls}


LAYERS = {
    "of 3 by 3 places": (nn.Conv2d(16, 3, 3, padding=1), True),
    "of 7 by 7": (nn.Conv2d(8, 1, 7, padding=3), True),
    "of other sides": (nn.Conv2d(8, 4, (3, 5), padding=(0, 2), bias=False), True),
    "of single pixels": (nn.Conv2d(8, 2, 1), True),
    "wide": (nn.Conv2d(8, 5, 3, padding=1), False),
    "strided": (nn.Conv2d(8, 3, 4, stride=2, padding=1), False),
    "dilated": (nn.Conv2d(8, 3, 3, dilation=2), False),
    "grouped": (nn.Conv2d(4, 4, 3, groups=4), False),
    "mirrored": (nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect"), False),
    "padded as it likes": (nn.Conv2d(8, 3, 3, padding="same"), False),
    "padded by more than it sees": (nn.Conv2d(8, 3, 3, padding=3), False),
    "of a class of its own": (type("Other", (nn.Conv2d,), {})(8, 3, 3), False),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_narrow_convolution_is_written_as_a_transposed_one(name):
    layer, changes = LAYERS[name]
    network = nn.Sequential(layer)
    x = torch.randn(2, layer.in_channels, 9, 7).double()
    changed = for_onnx(network).double()
    assert (type(changed[0]) is Transposed) == changes
    assert (changed(x) - network.double()(x)).abs().max() < 1e-12
    assert network[0] is layer, "it stays as it was"


def test_what_has_another_form_keeps_what_is_inside_it():
    network = nn.Sequential(of_transposed(nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)))
    assert type(for_onnx(network)[0]) is nn.ConvTranspose2d
    network[0].conv.bias.data[0] += 1
    assert type(for_onnx(network)[0].conv) is nn.Conv2d


def test_one_condition_is_read_once_and_another_anew(batch, monkeypatch):
    plain, network = make(node_of("dcgan")), small_batches.onnxruntime(make(node_of("dcgan")), 4)
    read, arrays = [], small_batches.arrays
    monkeypatch.setattr(small_batches, "arrays", lambda *given: read.append(1) or arrays(*given))
    one, other = (batch[1].rows(slice(i, i + 1)) for i in (0, 1))
    with torch.inference_mode():
        for count, (seed, condition) in enumerate([(0, one), (1, one), (2, other), (3, one), (4, one)], 1):
            latent = batch[0][seed : seed + 1]
            assert (network(latent, condition) - plain(latent, condition)).abs().max() < BOUND, count
    assert len(read) == 1 + 3, "once more where the program is compared"


@pytest.mark.parametrize("network", ["dcgan", "residual"])
def test_pixels_of_a_program_are_those_of_its_images(network, batch):
    call = small_batches.onnxruntime(make(node_of(network)), 16)._compiled_call_impl
    images, pixels = call.small(*batch), call.pixels(*batch)
    assert pixels.dtype == torch.uint8 and pixels.unique().numel() > 20
    assert torch.equal(pixels, as_pixels(images))


def test_few_images_are_drawn_by_it_and_many_by_the_network(batch, cache, monkeypatch):
    plain, network = make(node_of("dcgan")), make(node_of("dcgan"))
    assert small_batches.onnxruntime(network, 4) is network
    assert network.state_dict().keys() == plain.state_dict().keys()
    ran = []
    monkeypatch.setattr(onnx.Generator, "arrays", record(onnx.Generator.arrays, ran))
    with torch.inference_mode():
        for count in (1, 3, 4, 2):
            images = network(*rows(batch, count))
            assert (images - plain(*rows(batch, count))).abs().max() < BOUND
        short = batch[0][:2], Condition(batch[1].tokens[:2, :3], batch[1].mask[:2, :3], batch[1].pooled[:2])
        assert (network(*short) - plain(*short)).abs().max() < BOUND
        assert ran == [1, 1, 3, 4, 2, 2], "the first once more, to be compared"
        for count in (5, 16):
            assert torch.equal(network(*rows(batch, count)), plain(*rows(batch, count)))
    assert len(ran) == 6
    assert len([*cache.iterdir()]) == 1


def record(run, ran):
    def recorded(self, given, output="images"):
        ran.append(len(given["latent"]))
        return run(self, given, output)

    return recorded


def test_a_program_is_written_once_and_anew_for_other_weights(batch, cache, monkeypatch):
    def drawn(change=0.0):
        network = make(node_of("dcgan"))
        network.image.bias += change
        small_batches.onnxruntime(network, 4)(*rows(batch, 2))
        return len([*cache.iterdir()])

    assert drawn() == 1
    write, (program,) = onnx.write, cache.iterdir()
    monkeypatch.setattr(onnx, "write", None)
    os.utime(program, (0, 0))
    assert drawn() == 1
    assert program.stat().st_mtime > 0  # as trainer.prepare unused_days= asks
    monkeypatch.setattr(onnx, "write", write)
    assert drawn(0.5) == 2


def test_each_program_is_for_the_lengths_that_it_was_traced_for(batch, cache):
    class Positions(nn.Module):
        """Otherwise with captions of its full length, in a way that a program of the others does not hold."""

        def __init__(self):
            super().__init__()
            self.inside = make(node_of("dcgan"))
            self.latent_channels = self.inside.latent_channels

        def forward(self, latent, condition):
            length = condition.mask.shape[1]
            tokens = condition.tokens + torch.arange(float(length))[:, None] if length == 6 else condition.tokens
            return self.inside(latent, condition._replace(tokens=tokens))

    network = Positions()
    with torch.inference_mode():
        given = rows(batch, 2)
        short = given[0], Condition(given[1].tokens[:, :3], given[1].mask[:, :3], given[1].pooled)
        expected = network(*given), network(*short)
        small_batches.onnxruntime(network, 4)
        assert (network(*given) - expected[0]).abs().max() < BOUND
        assert (network(*short) - expected[1]).abs().max() < BOUND
        assert (network(*given) - expected[0]).abs().max() < BOUND
    assert {*network._compiled_call_impl.programs} == {6, 3}
    assert len([*cache.iterdir()]) == 2


def test_other_code_of_a_layer_is_another_program(batch, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "layers_of_mine.py"
    file.write_text("import torch\nclass Mine(torch.nn.Linear):\n    pass\n")
    network = importlib.import_module("layers_of_mine").Mine(2, 2)
    example = small_batches.inputs(*rows(batch, 2))
    before = small_batches.fingerprint(network, example, True)
    assert small_batches.fingerprint(network, example, True) == before
    assert small_batches.fingerprint(network, example, False) != before
    file.write_text(file.read_text() + "# otherwise\n")
    assert small_batches.fingerprint(network, example, True) != before


def test_what_cannot_be_exported_is_drawn_by_the_network(batch, monkeypatch, capsys):
    plain, network = make(node_of("dcgan")), small_batches.onnxruntime(make(node_of("dcgan")), 4)
    asked = []
    monkeypatch.setattr(onnx, "write", lambda *_, **__: asked.append(1) or 1 / 0)
    for _ in range(3):
        assert torch.equal(network(*rows(batch, 2)), plain(*rows(batch, 2)))
    told = capsys.readouterr().err.splitlines()  # before it, where the machine is busy, that it may take a minute
    assert [line for line in told if "may take" not in line] == ["onnxruntime: division by zero: PyTorch draws"]
    assert len(asked) == 2, "with up to so many tokens and with so many, and not again"


def test_a_program_that_draws_otherwise_is_not_used(batch, cache, capsys):
    network = make(node_of("dcgan"))
    small_batches.onnxruntime(network, 4)(*rows(batch, 2))
    other = make(node_of("dcgan"))
    other.image.bias += 0.5
    (program,) = cache.iterdir()
    wrong = small_batches.onnxruntime(other, 4)
    for is_open in (True, False):
        name = small_batches.fingerprint(other, small_batches.inputs(*rows(batch, 2)), is_open)
        program.with_name(f"{name}.onnx").write_bytes(program.read_bytes())
    capsys.readouterr()
    plain = make(node_of("dcgan"))
    plain.image.bias += 0.5
    assert torch.equal(wrong(*rows(batch, 2)), plain(*rows(batch, 2)))
    assert "its images differ by" in capsys.readouterr().err


def test_without_its_packages(batch, monkeypatch, capsys):
    monkeypatch.setattr(small_batches.importlib.util, "find_spec", lambda name: None)
    network = small_batches.onnxruntime(make(node_of("dcgan")), 4)
    assert network._compiled_call_impl is None
    assert "onnx is not installed; pip install" in capsys.readouterr().err


def encode(captions):
    tokens = torch.tensor([[[ord(each) / 64] * TEXT] * 6 for each in captions])
    return Condition(tokens, torch.ones(len(captions), 6, dtype=torch.bool), tokens[:, 0])


def test_a_sampler_keeps_to_a_grey_level_and_to_bits_where_asked(inputs, cache):  # noqa: F811
    def sampler(max_batch=None):
        network = make(node_of("dcgan"))
        drawing = Drawing(small_batches.onnxruntime(network, max_batch) if max_batch else network)
        return Sampler(drawing.eval(), encode)

    plain, fast = sampler(), sampler(8)
    captions = ["a", "b", "a"]
    assert not fast.fixed
    few, expected = fast(captions, range(3)), plain(captions, range(3))
    assert (few.int() - expected.int()).abs().max() <= 1
    assert [*cache.iterdir()]
    assert not fast.exact
    assert torch.equal(fast(captions * 6, range(18)), plain(captions * 6, range(18)))
    fast.keep_bits()
    assert torch.equal(fast(captions, range(3)), fast(captions * 6, range(18))[:3])


def test_captions_are_cut_to_what_they_hold(batch, cache, monkeypatch):
    network, seen = make(node_of("dcgan")), []
    monkeypatch.setattr(onnx.Generator, "arrays", lambda self, given, *_: seen.append(given) or run(self, given))
    mask = torch.zeros_like(batch[1].mask)
    mask[:, :2] = True
    mask[1, 3] = True  # the longest of the first two, with a hole
    given = batch[0], batch[1]._replace(mask=mask)
    assert batch[1].mask.shape[1] > 4
    plain = make(node_of("dcgan"))
    small_batches.onnxruntime(network, 4)
    with torch.inference_mode():
        for count in (2, 1):
            assert (network(*rows(given, count)) - plain(*rows(given, count))).abs().max() < BOUND
        one = mask.clone()
        one[:, 1:] = False
        alone = batch[0][:1], batch[1].rows(slice(1))._replace(mask=one[:1])
        assert (network(*alone) - plain(*alone)).abs().max() < BOUND
    assert [each["mask"].shape[1] for each in seen[1:]] == [4, 2, 1]


def run(self, given):
    return self.session.run(["images"], given)[0]


def test_a_provider_that_is_missing_is_told_and_its_program_drawn_by_another(batch, monkeypatch, capsys):
    monkeypatch.setattr(onnx, "providers", lambda: ["cuda", "cpu"])
    network = small_batches.onnxruntime(make(node_of("dcgan")), 4, "openvino")
    told = "onnxruntime: that of this machine has no openvino, only cuda, cpu: cpu draws"
    assert capsys.readouterr().err.splitlines() == [told]
    with torch.inference_mode():
        assert (network(*rows(batch, 2)) - make(node_of("dcgan"))(*rows(batch, 2))).abs().max() < BOUND
    assert network._compiled_call_impl.draws
    with pytest.raises(UserError, match=r"passes.onnxruntime.provider=tensorrt: expected cpu or openvino"):
        small_batches.onnxruntime(network, 4, "tensorrt")


def test_large_batches_by_it_are_the_same_to_a_grey_level_and_to_the_bit_where_asked(cache):
    fast = Sampler(Drawing(small_batches.onnxruntime(make(node_of("dcgan")), 64)).eval(), encode)
    plain = Sampler(Drawing(make(node_of("dcgan"))).eval(), encode)
    plain.keep_bits()
    captions, seeds = ["a", "b"] * 10, range(20)
    network, drawn = fast.network, []
    small = network._compiled_call_impl.small
    network._compiled_call_impl.small = lambda *given: drawn.append(len(given[0])) or small(*given)
    images, expected = fast(captions, seeds), plain(captions, seeds)
    assert max(drawn) > 16
    assert (images.int() - expected.int()).abs().max() <= 1
    assert not fast.exact
    drawn.clear()
    fast.keep_bits()
    assert torch.equal(fast(captions, seeds), expected)
    assert max(drawn, default=0) < 16


@pytest.fixture
def few(cache, monkeypatch):
    """A sampler whose network draws up to 4 images in onnxruntime; what it was asked for, in both."""
    sampler = Sampler(Drawing(small_batches.onnxruntime(make(node_of("dcgan")), 4)).eval(), encode)
    sampler(["a"], [0])
    ran, called = [], []
    monkeypatch.setattr(onnx.Generator, "arrays", record(onnx.Generator.arrays, ran))
    sampler.network.register_forward_pre_hook(lambda _, given: called.append(len(given[0])))
    return sampler, ran, called


def test_few_images_go_to_it_as_they_are_and_come_back_as_pixels(few):
    sampler, ran, called = few
    for count in (1, 3, 4):
        captions = ["a", "b", "a", "c"][:count]
        images = sampler(captions, range(count))
        given = sampler.latents(range(count)), sampler.conditions(captions)
        assert images.dtype == torch.uint8
        assert torch.equal(images, as_pixels(sampler.network._compiled_call_impl.small(*given)))
        assert torch.equal(images, sampler.draw(*given))
    assert ran == [1, 1, 1, 3, 3, 3, 4, 4, 4] and not called, "without pads, and beside the network"
    sampler(["a"] * 5, range(5))
    assert 5 not in ran and called


def test_few_images_are_still_no_more_at_once_than_was_asked_for(few):
    sampler, ran, _ = few
    sampler.batch_size = 2
    sampler(["a"] * 4, range(4))
    assert ran == [2, 2]


def test_fixed_batches_are_full_there_too(few):
    sampler, ran, called = few
    fixed = Sampler(sampler.objective, encode, 2, fixed=True)
    for count in (1, 2, 3):
        fixed(["a"] * count, range(count))
    assert ran == [2, 2, 2, 2] and not called


def test_few_images_of_a_training_network_are_drawn_by_it_and_modes_come_back(few):
    sampler, ran, called = few
    sampler.network.train()
    sampler(["a"], [0])
    assert ran == [] and called == [16]
    assert all(module.training for module in sampler.network.modules())


def test_few_images_have_averaged_weights(few, monkeypatch):
    sampler, ran, _ = few
    inside = []
    monkeypatch.setattr(sampler.objective, "ema_weights", lambda: inside.append(1) or nullcontext())
    sampler(["a"], [0])
    assert ran == inside == [1]


def differing(captions):
    ids = torch.tensor([*map(ord, captions)])
    tokens = noise.normal(1, "tokens", ids, 6 * TEXT).view(-1, 6, TEXT)
    return Condition(tokens, torch.ones(len(ids), 6, dtype=torch.bool), tokens[:, 0])


@pytest.mark.parametrize("settings", [{"guidance": 3.0, "negative": "b"}, {"precision": "bfloat16"}])
def test_few_images_of_more_than_one_call_are_not_taken_for_one(few, settings):
    sampler, _, _ = few
    sampler.objective.config = {"text": {"caption_dropout": 0.1}}
    plain = Sampler(Drawing(make(node_of("dcgan"))).eval(), encode)
    plain.objective.config, plain.text, sampler.text = sampler.objective.config, differing, differing
    images, expected = (each.conditioned(Conditioning(**settings))(["a"], [0]) for each in (sampler, plain))
    assert (images.int() - expected.int()).abs().max() <= 1
    assert (images.int() - plain(["a"], [0]).int()).abs().max() > 1


def test_a_copy_is_plain_and_a_compiled_network_counts_as_such():
    network = small_batches.onnxruntime(make(node_of("dcgan")), 4)
    assert deepcopy(network)._compiled_call_impl is None
    assert not is_compiled(network)
    assert is_compiled(small_batches.onnxruntime(compiled(make(node_of("dcgan"))), 4))


def test_few_images_of_a_compiled_network_are_drawn_as_few(cache, monkeypatch):
    """In full batches one image would take the time of sixteen; truncated or in 16 bits there is no program of them."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: record_batches(call, seen))
    few = small_batches.onnxruntime(compiled(make(node_of("dcgan"))), 4)
    fast, plain = Sampler(Drawing(few).eval(), encode), Sampler(Drawing(make(node_of("dcgan"))).eval(), encode)
    plain.keep_bits()
    for captions in (["a"], ["a", "b", "a"], ["b"] * 4):
        images = fast(captions, range(len(captions)))
        assert (images.int() - plain(captions, range(len(captions))).int()).abs().max() <= 1
    assert seen == [] and fast.fixed
    fast(["a"] * 20, range(20))
    assert seen == [16], "and the four behind them are few"
    assert Sampler(Drawing(few).eval(), encode, 8, fixed=True)(["a"], [0]).shape[0] == 1
    assert seen[1:] == [8], "as asked"
    fast.conditioned(Conditioning(compose="mean"))(["a + b"], [0])
    assert len(seen) == 2, "another conditioning has few, too"
    bf16 = fast.conditioned(Conditioning(precision="bfloat16"))
    bf16(["a"] * 9, range(9))
    fast.keep_bits()
    fast(["a"], [0])
    assert seen[2:] == [16, 16]


def record_batches(call, seen):
    def recorded(latent, condition):
        seen.append(len(latent))
        return call(latent, condition)

    return recorded


def test_few_images_of_a_compiled_network_without_a_program_are_drawn_by_its_layers(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: record_batches(call, seen))
    monkeypatch.setattr(small_batches, "exported", None)
    few = small_batches.onnxruntime(compiled(make(node_of("dcgan"))), 4)
    fast, plain = Sampler(Drawing(few).eval(), encode), Sampler(Drawing(make(node_of("dcgan"))).eval(), encode)
    for _ in range(2):
        assert (fast(["a"] * 2, range(2)).int() - plain(["a"] * 2, range(2)).int()).abs().max() <= 1
    assert not seen
    assert capsys.readouterr().err.count("PyTorch draws") == 1


def test_truncated_styles_are_drawn_by_the_network(batch):
    network = small_batches.onnxruntime(make(node_of("stylegan2")), 4)
    plain = make(node_of("stylegan2"))
    network.truncation = plain.truncation = 0.5
    assert torch.equal(network(*rows(batch, 2)), plain(*rows(batch, 2)))
    assert not network._compiled_call_impl.programs


def test_another_precision_is_the_networks(batch):
    network, plain = small_batches.onnxruntime(make(node_of("dcgan")), 4), make(node_of("dcgan"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(*rows(batch, 2)), plain(*rows(batch, 2)))
    assert not network._compiled_call_impl.programs


def test_what_it_refuses():
    network = make(node_of("dcgan"))
    with pytest.raises(UserError, match=r"passes\.onnxruntime\.max_batch=5000: expected 1 to 4096"):
        small_batches.onnxruntime(network, 5000)
    network.chooses = True
    with pytest.raises(UserError, match="a prior of codes takes minutes to export"):
        small_batches.onnxruntime(network)
