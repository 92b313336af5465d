"""The sampler beside plain PyTorch."""

import pytest
import torch

from trainer import speed
from trainer.compression.comparison import sampler
from trainer.export import main as export
from trainer.exports.small_batches import onnxruntime
from trainer.sampling.pipeline import load


def test_every_way_is_measured_and_has_its_line(trained, command):
    done = command(f"checkpoint={trained}", "rounds=1", "batch_sizes=[2]", main=speed.main)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line[:21].strip() for line in lines[1:]] == [
        *("plain PyTorch", "sampler", "of captions and seeds", "mode=latency")
    ]
    assert lines[1].split()[-1] == "1.00"


@pytest.mark.parametrize("in_onnxruntime", [False, True])
def test_all_ways_draw_the_same(trained, monkeypatch, in_onnxruntime):
    drawn, pipe = {}, load(trained, "cpu")
    if in_onnxruntime:
        pytest.importorskip("onnxruntime")
        onnxruntime(pipe.objective.get_submodule(pipe.objective.draws_with), 4)

    def measure(ways, inputs, batch_sizes, rounds):
        with torch.inference_mode():
            drawn.update({name: way(*inputs(3)) for name, way in ways.items()})

    monkeypatch.setattr(sampler, "measure", measure)
    sampler.compare(pipe, [1], 1)
    assert len(drawn) == 4 + in_onnxruntime
    assert (sampler.ONNXRUNTIME in drawn) == in_onnxruntime
    for images in drawn.values():
        assert (images.int() - drawn[sampler.PLAIN].int()).abs().max() <= 1
    assert drawn[sampler.PLAIN].float().std() > 0


def test_programs_are_timed_beside_their_own_call(trained, command, tmp_path):
    done = command(f"checkpoint={trained}", f"out={tmp_path}", "formats=[torch_export]", main=export)
    assert done.code == 0, done.err
    program = tmp_path / "model.pt2"
    done = command(f"checkpoint={program}", "rounds=1", "batch_sizes=[2]", main=speed.main)
    assert done.code == 0, done.err
    assert "the program itself" in done.out.splitlines()[1]
    done = command(f"checkpoint={program}", "compile=true", main=speed.main)
    assert done.code == 2
    assert "is a program already" in done.err


def test_programs_of_other_runtimes_are_not_copied(trained, monkeypatch):
    """An InferenceSession cannot be."""

    def refused(self, memo):
        raise TypeError("cannot pickle 'InferenceSession'")

    pipe = load(trained, "cpu")
    monkeypatch.setattr(sampler, "is_program", lambda path: True)
    monkeypatch.setattr(type(pipe.objective), "__deepcopy__", refused, raising=False)
    found = sampler.compare(pipe, [1], 1)
    assert [*found] == [sampler.PROGRAM, "sampler", "of captions and seeds", "mode=latency"]


def test_no_rounds_are_refused(trained, command):
    done = command(f"checkpoint={trained}", "rounds=0", main=speed.main)
    assert done.code == 2
    assert "rounds=0" in done.err
