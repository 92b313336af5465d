"""Up to how many images at once another way is the quicker one, by networks that sleep."""

import time

import pytest
import torch

from trainer.batch import Condition
from trainer.compression.search import batches, candidate
from trainer.compression.search.candidate import AOT, ONNXRUNTIME, Bench, Candidate
from trainer.errors import UserError
from trainer.exports import small_batches
from trainer.exports.ahead_of_time import AheadOfTime
from trainer.exports.small_batches import SmallBatches


def sleeping(*ms):
    """A network that takes so many times 4 ms for each of the sizes: a busy machine wakes it later."""
    return lambda latent, condition: time.sleep(ms[batches.TRIED.index(len(latent))] / 250)


def network():
    layer = torch.nn.Linear(2, 2)
    layer.latent_channels = 2
    return layer


def inputs(count):
    return torch.zeros(count, 2), Condition(torch.zeros(count, 3, 2), torch.ones(count, 3) > 0, torch.zeros(count, 2))


@pytest.mark.parametrize(
    ("other", "expected"),
    [((2, 4, 9, 20, 9, 9), 4), ((2, 9, 4, 6, 9, 9), 1), ((6, 2, 2, 2, 2, 2), 0), ((1, 1, 1, 1, 1, 1), 64)],
    ids=["the smaller ones", "one alone, whatever larger ones take", "none, where one alone is not", "all"],
)
def test_the_largest_that_is_drawn_sooner(other, expected, capsys):
    assert batches.largest("other", sleeping(5, 7, 12, 15, 15, 15), sleeping(*other), inputs) == expected
    assert f"other: for up to {expected} images at once; its speed beside" in capsys.readouterr().err


def test_the_sizes_that_are_drawn_sooner(capsys):
    """Each by itself: an image in a batch may take longer than one alone, and still be drawn sooner than before."""
    assert batches.quicker("other", sleeping(5, 7, 7, 40), sleeping(1, 9, 3, 20), inputs, (1, 2, 4, 8)) == [1, 4, 8]
    assert "other: for batches of 1, 4, 8; its speed beside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "able", "kept"), [(None, (1, 16), [[16]]), ([4], (), [[4]]), (None, (1,), []), (None, (), [])]
)
def test_programs_of_the_sizes_that_pay_or_were_asked_for(given, able, kept, monkeypatch, tmp_path):
    monkeypatch.setattr(AheadOfTime, "program", lambda self, latent, condition: len(latent) in able)
    monkeypatch.setattr(batches, "quicker", lambda name, network, other, inputs, sizes: [s for s in sizes if s > 1])
    bench = Bench(tmp_path, [inputs(4)], tmp_path)
    node = {"_target_": AOT, "_partial_": True, "batch_sizes": given}
    after = bench.apply(Candidate(network()), "aot", node)
    assert [node["batch_sizes"] for node in after.runtime] == kept


@pytest.mark.parametrize(
    ("found", "given", "can_be", "kept"),
    [(4, None, True, [4]), (0, None, True, []), (0, 2, True, [2]), (4, None, False, [])],
)
def test_it_stays_where_it_pays_or_was_asked_for(found, given, can_be, kept, monkeypatch, tmp_path):
    monkeypatch.setattr(SmallBatches, "small", lambda self, latent, condition: latent if can_be else None)
    monkeypatch.setattr(batches, "largest", lambda name, network, other, inputs: found)
    node = {"_target_": ONNXRUNTIME, "_partial_": True, "max_batch": given}
    bench = Bench(tmp_path, [inputs(4)], tmp_path)
    after = bench.apply(Candidate(network()), "onnxruntime", node)
    assert [node["max_batch"] for node in after.runtime] == kept
    assert after.passes == ("onnxruntime",)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ({"cpu": 4, "openvino": 8}, ("openvino", 8)),
        ({"cpu": 4, "openvino": 4}, ("openvino", 4)),  # beside cpu, which drew by then
        ({"cpu": 16, "openvino": 4}, ("cpu", 16)),
        ({"cpu": 4, "openvino": 0}, ("cpu", 4)),
        ({"cpu": 0, "openvino": 2}, ("openvino", 2)),
        ({"cpu": 0, "openvino": 0}, None),
    ],
)
def test_of_two_providers_the_one_that_is_quicker_for_all(sizes, kept, monkeypatch, tmp_path):
    beside = []

    def largest(name, network, other, inputs):
        beside.append(network)
        return sizes["openvino" if "openvino" in name else "cpu"]

    monkeypatch.setattr(SmallBatches, "small", lambda self, latent, condition: latent)
    monkeypatch.setattr(batches, "largest", largest)
    monkeypatch.setattr(candidate, "providers", lambda: ["cuda", "openvino", "cpu"])
    monkeypatch.setattr(small_batches.onnx, "providers", lambda: ["cuda", "openvino", "cpu"])
    bench = Bench(tmp_path, [inputs(4)], tmp_path)
    node = {"_target_": ONNXRUNTIME, "_partial_": True, "max_batch": None, "provider": None}
    after = bench.apply(Candidate(network()), "onnxruntime", node)
    assert [(node["provider"], node["max_batch"]) for node in after.runtime] == ([kept] if kept else [])
    assert (beside[0] is not beside[1]) == bool(sizes["cpu"]), "the second has to be quicker than the first"
    beside.clear()
    bench.apply(Candidate(network()), "onnxruntime", {**node, "provider": "openvino"})
    assert len(beside) == 1


def test_it_comes_last(tmp_path):
    nodes = {"onnxruntime": {"_target_": ONNXRUNTIME}, "compile": {"_target_": "trainer.sampling.runtime.compiled"}}
    with pytest.raises(UserError, match=r"compression=\['onnxruntime', 'compile'\]: what comes .* put it last"):
        Bench(tmp_path, [inputs(4)], tmp_path).steps(Candidate(torch.nn.Linear(2, 2)), nodes.items())
    nodes = {"aot": {"_target_": AOT}, **nodes}
    with pytest.raises(UserError, match="aot compiles what is before it; put it last, or before onnxruntime"):
        Bench(tmp_path, [inputs(4)], tmp_path).steps(Candidate(torch.nn.Linear(2, 2)), [*nodes.items()][::2])
