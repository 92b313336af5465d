"""Batches by programs compiled on this machine: the network's own within a grey level, or the network."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from tests.compression.conftest import inputs, make, node_of  # noqa: F401
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports import ahead_of_time, small_batches
from trainer.sampling.sampler import is_compiled

BOUND = 1e-4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/aot"


@pytest.fixture
def batch(inputs):  # noqa: F811
    """32 latents and captions of different lengths."""
    latents = torch.cat([latent for latent, _ in inputs] * 4) + torch.arange(32)[:, None] / 32
    return latents, Condition.cat([each for _, each in inputs] * 4)


def rows(batch, count):
    return batch[0][:count], batch[1].rows(slice(count))


class Package:
    """In the place of machine code: the network itself, a little brighter."""

    def __init__(self, network, brighter):
        self.network, self.brighter, self.sizes = network, brighter, []

    def run(self, given):
        self.sizes.append(len(given[0]))
        return [self.network._call_impl(given[0], Condition(*given[1:])) + self.brighter]


class Darker:
    """In the place of a program of onnxruntime."""

    def __init__(self, network):
        self.network = network

    def arrays(self, given, output="images"):
        latent, *condition = map(torch.from_numpy, given.values())
        return (self.network._call_impl(latent, Condition(*condition)) - 1e-3).numpy()


@pytest.fixture
def packaged(monkeypatch, cache):
    """Networks whose programs are `Package`s; all that were loaded, and the paths that were written."""
    loaded, written = [], []

    def write(network, example, path):
        written.append(path)
        path.write_bytes(b"")

    def ready(brighter=1e-3, **options):
        network = make(node_of("dcgan"))

        def load(*_):
            loaded.append(Package(network, brighter))
            return loaded[-1]

        monkeypatch.setattr(ahead_of_time, "PackageLoader", load)
        return ahead_of_time.aot(network, **options)

    monkeypatch.setattr(ahead_of_time, "write", write)
    return ready, loaded, written


def test_which_batches_are_drawn_by_programs(packaged, batch):
    """Of 16 and its multiples in parts of 16, of others where they are named."""
    ready, loaded, _ = packaged
    network, plain = ready(batch_sizes=[2, 16]), make(node_of("dcgan"))
    by_program = {}
    for count in (1, 2, 3, 16, 20, 32):
        difference = network(*rows(batch, count)) - plain(*rows(batch, count))
        by_program[count] = bool((difference - 1e-3).abs().max() < BOUND)
        assert by_program[count] or difference.abs().max() < BOUND
    assert by_program == {1: False, 2: True, 3: False, 16: True, 20: False, 32: True}
    assert [each.sizes for each in loaded] == [[2, 2], [16, 16, 16, 16]], "the first once more, to be compared"
    assert not is_compiled(network), "an image has the same bits in batches of 16 and of 32"
    assert deepcopy(network)._compiled_call_impl is None


def test_one_that_draws_otherwise_is_not_used(packaged, batch, capsys):
    network, plain = packaged[0](brighter=0.02), make(node_of("dcgan"))
    assert torch.equal(network(*rows(batch, 16)), plain(*rows(batch, 16)))
    assert capsys.readouterr().err == "aot: its images differ by 2.0e-02: PyTorch draws\n"
    network(*rows(batch, 16))
    assert len(packaged[1]) == 1, "it is not tried again"


def test_what_cannot_be_compiled_is_drawn_by_the_network(packaged, batch, monkeypatch, capsys):
    network, plain = packaged[0](), make(node_of("dcgan"))
    monkeypatch.setattr(ahead_of_time, "write", lambda *_: 1 / 0)
    for _ in range(2):
        assert torch.equal(network(*rows(batch, 16)), plain(*rows(batch, 16)))
    assert capsys.readouterr().err == "aot: division by zero: PyTorch draws\n"


def test_a_program_is_of_weights_size_threads_and_processor(packaged, batch, monkeypatch, cache):
    ready, _, written = packaged

    def count(change=0.0, size=16):
        network = ready(batch_sizes=[size])
        network.image.bias += change
        network(*rows(batch, size))
        assert len({*cache.iterdir()}) == len(written)
        return len(written)

    assert [count(), count()] == [1, 1], "the second process finds it"
    assert count(change=1e-6) == 2
    assert count(size=4) == 3
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert count() == 4
    monkeypatch.setattr(ahead_of_time, "processor", lambda: "another")
    assert count() == 5


def test_few_images_in_onnxruntime_and_the_rest_by_it(packaged, batch, monkeypatch):
    monkeypatch.setattr(small_batches.SmallBatches, "_made", lambda self, *_: Darker(self.network))
    monkeypatch.setattr(small_batches.importlib.util, "find_spec", lambda name: name)
    network, plain = small_batches.onnxruntime(packaged[0](), 2), make(node_of("dcgan"))
    assert not is_compiled(network)
    for count, expected in ((2, -1e-3), (4, 0), (16, 1e-3)):
        difference = network(*rows(batch, count)) - plain(*rows(batch, count))
        assert (difference - expected).abs().max() < BOUND


def test_truncated_styles_are_drawn_by_the_network(batch, monkeypatch):
    monkeypatch.setattr(ahead_of_time, "write", lambda *_: pytest.fail("compiled"))
    network, plain = ahead_of_time.aot(make(node_of("stylegan2"))), make(node_of("stylegan2"))
    network.truncation = plain.truncation = 0.5
    assert torch.equal(network(*rows(batch, 16)), plain(*rows(batch, 16)))


def test_what_it_refuses():
    network = make(node_of("dcgan"))
    with pytest.raises(UserError, match=r"passes\.aot\.batch_sizes=\[16, 64\]: expected some of 1, 2, 4, 8, 16"):
        ahead_of_time.aot(network, [16, 64])
    network.chooses = True
    with pytest.raises(UserError, match="a prior of codes takes minutes to export"):
        ahead_of_time.aot(network)


@pytest.mark.slow
def test_machine_code_draws_the_same_and_is_compiled_once(batch, cache, monkeypatch):
    plain = make(node_of("dcgan"))
    with torch.inference_mode():
        for _ in range(2):
            network = ahead_of_time.aot(make(node_of("dcgan")))
            images = network(*rows(batch, 32))
            assert network._compiled_call_impl.programs[16, batch[1].mask.shape[1], torch.get_num_threads()]
            assert 0 < (images - plain(*rows(batch, 32))).abs().max() < BOUND
            assert torch.equal(images[:16], network(*rows(batch, 16)))
            monkeypatch.setattr(ahead_of_time, "write", lambda *_: pytest.fail("compiled again"))
    assert len([*cache.iterdir()]) == 1
