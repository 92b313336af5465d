"""What is timed is the sampler that has as many images at a time as are drawn."""

from __future__ import annotations

import pytest
import torch

from trainer.compression.comparison import latency
from trainer.compression.comparison.baselines import baselines
from trainer.compression.comparison.drawn import by_sampler, drawn
from trainer.compression.search import batches, measurement
from trainer.compression.search.candidate import AOT, ONNXRUNTIME, Bench, Candidate
from trainer.compression.search.trials import Trials
from trainer.exports.ahead_of_time import AheadOfTime
from trainer.exports.drawing import Drawing
from trainer.exports.small_batches import SmallBatches
from trainer.sampling import runtime
from trainer.sampling.sampler import Sampler

COMPILE = {"_target_": "trainer.sampling.runtime.compiled", "_partial_": True}


def test_pixels_are_those_of_the_sampler_of_that_size(generator, drawn_from):
    rows = []
    generator.register_forward_hook(lambda m, given, out: rows.append(len(out)))
    way = drawn(generator)
    for count, seen in ((1, 1), (3, 4), (20, 32)):
        given = drawn_from(count)
        for _ in range(2):  # the first time is drawn in full
            images = way(*given)
        assert rows[-1] == seen
        assert images.dtype == torch.uint8
        assert torch.equal(images, Sampler(Drawing(generator), None, count).draw(*given))
    by_sampler(Drawing(generator), fixed=True)(*drawn_from(3))
    assert rows[-1] == 3


@pytest.mark.skipif(not runtime.has_cpp_compiler(), reason="needs a C++ compiler")
def test_a_compiled_network_is_compiled_for_each_size(generator, drawn_from, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: lambda *given: seen.append(len(given[0])) or call(*given))
    way = drawn(runtime.compiled(generator))
    for count in (1, 3, 20):
        way(*drawn_from(count))
    assert seen == [1, 3, 20]


class TimedError(Exception):
    """Raised with what would have been timed."""


def test_stages_and_what_is_beside_them_are_timed_so(generator, drawn_from, monkeypatch, tmp_path):
    def measure(ways, inputs, *_, **options):
        raise TimedError({name: way(*inputs(3)) for name, way in ways.items()})

    monkeypatch.setattr(latency, "measure", measure)
    monkeypatch.setattr(SmallBatches, "small", lambda self, *given: self.network._call_impl(*given))
    monkeypatch.setattr(SmallBatches, "pixels", lambda self, *given: torch.zeros(3, dtype=torch.uint8))
    bench, first = Bench(tmp_path, [drawn_from(4)], tmp_path), Candidate(generator)
    beside = {"first": baselines(bench, "first", first, {"channels_last": {
        "_target_": "trainer.sampling.runtime.channels_last", "_partial_": True}})}  # fmt: skip
    with pytest.raises(TimedError) as found:
        measurement.prove({"first": first}, [tmp_path], bench, None, [3], [], beside)
    (timed,) = found.value.args
    expected = Sampler(Drawing(generator), None, 3).draw(*bench.batch(3))
    for name in ("first", "first + channels_last"):
        assert timed[name].dtype == torch.uint8 and (timed[name].int() - expected.int()).abs().max() <= 1
    others = {*timed} - {"first", "first + channels_last"}
    assert others <= {"first in onnxruntime"} and all(len(timed[name].shape) == 1 for name in others)
    search = Trials(bench, None, {}, 0)
    search.original = first.ready()
    with pytest.raises(TimedError) as found:
        search.measure(first)
    assert [images.dtype for images in found.value.args[0].values()] == [torch.uint8] * 2


@pytest.mark.parametrize(("target", "name"), [(ONNXRUNTIME, "largest"), (AOT, "quicker")])
def test_so_is_whether_another_runtime_pays(target, name, generator, drawn_from, monkeypatch, tmp_path):
    timed = []
    monkeypatch.setattr(SmallBatches, "small", lambda self, *given: self.network._call_impl(*given))
    monkeypatch.setattr(AheadOfTime, "program", lambda self, *given: self.network._call_impl)
    monkeypatch.setattr(batches, name, lambda _, network, other, inputs, *rest: timed.append(network(*inputs(2))))
    Bench(tmp_path, [drawn_from(4)], tmp_path).apply(Candidate(generator), "x", {"_target_": target, "_partial_": True})
    assert [images.dtype for images in timed] == [torch.uint8]


def test_candidates_run_as_checkpoints_of_them_are_loaded(generator, drawn_from):
    """Passes leave layers of their own in training mode, and with weights that train and lie otherwise."""
    network = Candidate(generator.train().requires_grad_()).ready()
    assert not any(module.training for module in network.modules())
    assert not any(weight.requires_grad for weight in network.parameters())
    linear = next(layer for layer in network.modules() if type(layer) is torch.nn.Linear)
    assert linear.weight.t().is_contiguous()
    assert generator.training and all(weight.requires_grad for weight in generator.parameters())


def test_captions_are_timed_whole_and_passes_see_no_pads(drawn_from, tmp_path):
    latents, condition = drawn_from(4)
    condition.mask[:, 3:] = False
    condition.mask[1:, 2:] = False
    parts = [(latents[part], condition.rows(part)) for part in (slice(2), slice(2, 4))]
    bench = Bench(tmp_path, parts, tmp_path)
    assert bench.batch(3)[1].mask.shape[1] == 5
    assert [each.mask.shape[1] for _, each in bench.without_pads] == [3, 3]
