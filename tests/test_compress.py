"""`python -m trainer.compress` as typed, on a run of two steps, and distillation from a run."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from trainer import compress, evaluate, load
from trainer.compression.comparison import baselines, latency
from trainer.compression.search import batches, measurement
from trainer.evaluation.fidelity import Fidelity
from trainer.export import main as export
from trainer.exports.onnx import PACKAGES
from trainer.runs import results, scenes_probe
from trainer.sample import main as sample

TINY = ["data.source.num_images=60", "data.resolution=16", "data.batch_size=8"]
NARROW = [f"objective.{n}.{k}=16" for n in ("generator", "discriminator") for k in ("base_channels", "max_channels")]
NARROW_VAE = [
    f"objective.autoencoder.{n}.{k}=16" for n in ("encoder", "decoder") for k in ("base_channels", "max_channels")
]
QUICK = ["kimg=0.016", "callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"]
FEW = ["num_images=24", "num_references=24", "batch_sizes=[1,4]", "calibration=16", "device=cpu"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(scenes_probe, "NUM_SCENES", 256)
    monkeypatch.setattr(scenes_probe, "NUM_TESTS", 64)
    measure = latency.measure  # whether figures are steady is no matter here; search and proof call it by its module
    monkeypatch.setattr(latency, "measure", lambda *given, **_: measure(*given, rounds=2, seconds=0.01))
    monkeypatch.setattr(measurement, "fresh", partial(measurement.fresh, repeats=1))
    monkeypatch.setattr(baselines, "PACKAGES", ("no_such_package",))  # seconds of export in every test


def trained_by(folder, *arguments):
    command = [sys.executable, "-m", "trainer", *arguments, *QUICK, f"run_dir={folder / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan")
    return trained_by(folder, "experiment=cgan_shapes", *TINY, *NARROW, f"data.cache_dir={folder / 'cache'}")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    return trained_by(folder, "experiment=cvae", *TINY, *NARROW_VAE, f"data.cache_dir={folder / 'cache'}")


@pytest.fixture(scope="module")
def progressive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progressive")
    own = ["experiment=progressive", "data=shapes_single", "objective.phase_kimg=0.002", *TINY, *NARROW]
    return trained_by(folder, *own, f"data.cache_dir={folder / 'cache'}")


@pytest.fixture
def run(request, tmp_path):
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / request.param)


@pytest.mark.parametrize("run", ["gan", pytest.param("vae", marks=pytest.mark.slow)], indirect=True)
def test_passes_measured_saved_and_drawn_from(command, run, tmp_path):
    passes = ["compression=[prune,fold]", "passes.prune.ratio=0.25", "passes.prune.multiple_of=1"]
    done = command(f"checkpoint={run}", *passes, *FEW, main=compress.main)
    assert done.code == 0, done.err
    out = run / "compressed" / "prune-fold"
    stages = json.loads((out / "proof.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["as trained", "as trained + fold", "prune", "fold"]
    before, beside, pruned, folded = stages
    assert beside["beside"] and not beside["figures"] and beside["speed"]["p50_rounds"]
    assert pruned["size"]["parameters"] < before["size"]["parameters"]
    assert pruned["size"]["multiply_adds"] < 0.8 * before["size"]["multiply_adds"]
    assert before["figures"]["psnr_teacher"] == 80, "the first stage is what the others are compared with"
    assert pruned["figures"]["psnr_teacher"] < 60
    assert folded["figures"]["psnr_teacher"] == pytest.approx(pruned["figures"]["psnr_teacher"], abs=0.05)
    assert folded["fresh"]["first_image_s"] > folded["fresh"]["load_s"] > 0
    assert all(name in done.out for name in ("prune", "fold", "FD", "attribute accuracy"))
    assert {"fd_effnet", "psnr_teacher"} <= {figure.metric for figure in results.read(out)}
    assert all((out / name).exists() for name in ("proof.html", "grid.png", "config.json", "model.safetensors"))

    drawn = command(f"checkpoint={out}", "prompts=[a red circle]", f"out={tmp_path / 'drawn'}", main=sample)
    assert drawn.code == 0, drawn.err
    measured = command(f"checkpoint={out}", "num_images=24", "num_references=24", "metrics=[fd]", main=evaluate.main)
    assert measured.code == 0, measured.err
    again = {figure.metric: figure.value for figure in results.read(out)}
    assert again["fd_effnet"] == pytest.approx(folded["figures"]["fd_effnet"], rel=1e-6)

    more = command(f"checkpoint={out}", "compression=[low_rank]", "metrics=[]", *FEW, main=compress.main)
    assert more.code == 0, more.err
    node = json.loads((out / "compressed" / "low_rank" / "config.json").read_text())["config"]["objective"]["generator"]
    assert node["network"]["_target_"].endswith("dcgan.Generator"), "one level over the first network"


@pytest.mark.parametrize("run", ["gan"], indirect=True)
def test_quality_is_measured_once_for_stages_that_draw_the_same(command, run, monkeypatch):
    measured, figures_of = [], Fidelity.figures
    monkeypatch.setattr(Fidelity, "figures", lambda self: measured.append(self) or figures_of(self))
    passes = "compression=[prune,channels_last,half]"  # half rounds: its images are others
    done = command(f"checkpoint={run}", passes, "metrics=[fd]", *FEW, main=compress.main)
    assert done.code == 0, done.err
    out = run / "compressed" / "prune-channels_last-half"
    _, _, pruned, same, rounded = json.loads((out / "proof.json").read_text())["stages"]
    assert len(measured) == 3
    assert same["figures"]["fd_effnet"] == pruned["figures"]["fd_effnet"] != rounded["figures"]["fd_effnet"]
    assert same["figures"]["psnr_teacher"] == pytest.approx(pruned["figures"]["psnr_teacher"], abs=0.05)
    assert ["draws as prune does" in stage["note"] for stage in (pruned, same, rounded)] == [False, True, False]
    assert "draws as prune does" in done.out


@pytest.mark.parametrize("run", ["gan", pytest.param("vae", marks=pytest.mark.slow)], indirect=True)
def test_fine_tuning_goes_on_with_the_pruned_generator(command, run):
    passes = ["compression=[prune,finetune]", "passes.finetune.kimg=0.032", "passes.prune.multiple_of=1"]
    done = command(f"checkpoint={run}", *passes, "metrics=[]", *FEW, main=compress.main)
    assert done.code == 0, done.err
    out = run / "compressed" / "prune-finetune"
    _, pruned, tuned = json.loads((out / "proof.json").read_text())["stages"]
    assert pruned["size"]["multiply_adds"] == tuned["size"]["multiply_adds"]
    folder = out / "finetune" / "00-after-prune"
    start, end = load(folder / "start"), load(folder / "run")
    assert end.step == 4
    shapes = [{k: v.shape for k, v in pipe.objective.state_dict().items()} for pipe in (start, end)]
    assert shapes[0] == shapes[1]
    moved = [pipe.objective.get_submodule(pipe.objective.draws_with).image.weight for pipe in (start, end)]
    assert not torch.equal(*moved)
    last = load(out).objective.generator.image.weight
    assert torch.equal(last, moved[1]), "the averaged weights of the fine-tuned run"


@pytest.mark.slow
@pytest.mark.parametrize("run", ["progressive"], indirect=True)
def test_fine_tuning_of_what_has_grown_does_not_grow_it_again(command, run):
    """As its first sizes are not drawn, and keep widths that pruning takes from what they read."""
    passes = ["compression=[prune,finetune,fold]", "passes.finetune.kimg=0.032", "passes.prune.multiple_of=1"]
    done = command(f"checkpoint={run}", *passes, "metrics=[]", *FEW, main=compress.main)
    assert done.code == 0, done.err
    tuned = load(run / "compressed/prune-finetune-fold/finetune/00-after-prune/run").objective
    assert tuned.level(0) == tuned.generator.most == tuned.generator.level
    assert tuned.images_seen == 32


@pytest.mark.parametrize("run", ["gan"], indirect=True)
def test_gains_are_stated_over_the_best_that_loses_nothing(command, run, monkeypatch):
    monkeypatch.setattr(baselines, "PACKAGES", PACKAGES)
    given = [f"checkpoint={run}", "compression=[half,fold]", "metrics=[]", *FEW]
    done = command(*given, main=compress.main)
    assert done.code == 0, done.err
    ways = ("", " + fold", " + fold in onnxruntime")
    names = [*(f"as trained{way}" for way in ways), "half", "fold", "fold in onnxruntime"]
    proof = run / "compressed" / "half-fold"
    assert [stage["name"] for stage in json.loads((proof / "proof.json").read_text())["stages"]] == names
    told = re.search(r"best: (.+) draws \S+× the images/s of (.+); (.+) one image \S+× as fast as (.+)", done.out)
    assert {told[1], told[3]} <= {*names[-2:]} and {told[2], told[4]} <= {*names[:3]}
    assert "- each at its best: **" in (proof / "proof.md").read_text()

    done = command(f"checkpoint={run}", "compression=[fold]", "metrics=[]", *FEW, main=compress.main)
    stages = json.loads((run / "compressed" / "fold" / "proof.json").read_text())["stages"]
    names = ["as trained", "fold", "fold in onnxruntime"]
    assert [stage["name"] for stage in stages] == names, "nothing is lost: these are the first at its best"


@pytest.mark.parametrize("run", ["gan"], indirect=True)
def test_few_images_in_onnxruntime(command, run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "programs"))
    monkeypatch.setattr(batches, "largest", lambda name, network, other, inputs: 2)
    given = [f"checkpoint={run}", "compression=[fold,onnxruntime]", "metrics=[]", *FEW]
    done = command(*given, main=compress.main)
    assert done.code == 0, done.err
    out = run / "compressed" / "fold-onnxruntime"
    stages = json.loads((out / "proof.json").read_text())["stages"]
    names = ["as trained", "fold", "onnxruntime"]
    assert [stage["name"] for stage in stages] == names, "nothing is lost, and its last row is in onnxruntime already"
    (node,) = json.loads((out / "config.json").read_text())["config"]["runtime"]
    assert node["max_batch"] == 2
    fast, captions = load(out), ["a small red circle", "a large blue square"]
    assert [*fast.objective.generator._compiled_call_impl.programs] == []
    pictures, plain = fast(captions).pixels, load(run)(captions).pixels
    assert (pictures.int() - plain.int()).abs().max() <= 1
    assert None not in fast.objective.generator._compiled_call_impl.programs.values()


@pytest.mark.parametrize("run", ["gan"], indirect=True)
def test_search_for_a_smaller_one(command, run):
    arguments = ["target=size:1.5x", "finetune_kimg=0", "metrics=[fd]", "passes.prune.multiple_of=1", "max_rounds=3"]
    done = command(f"checkpoint={run}", *arguments, "compression=[prune,fold]", *FEW, main=compress.main)
    assert done.code == 0, done.err
    out = run / "compressed" / "size-1.5x"
    saved = json.loads((out / "proof.json").read_text())
    first, _, last = saved["stages"]
    assert len(saved["points"]) > 1 and saved["points"][0]["cost"] == 1
    assert first["size"]["bytes"] >= 1.5 * last["size"]["bytes"] * 0.98  # a file has a header
    assert "prune" in last["name"]


@pytest.mark.parametrize("run", ["gan"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target=latency"], "target=latency: expected latency:4x"),
        (["target=latency:4x", "compression=[fold]"], "a search needs prune or low_rank among its passes"),
        (["compression=[prun]"], "prun"),
        (["passes.fold.ratio=1"], "passes.fold.ratio"),
        (["checkpoint=nowhere"], "nowhere does not exist"),
        (["compression=[prune]", "passes.prune.ratio=2"], "passes.prune.ratio=2"),
    ],
)
def test_mistakes_are_one_line(command, run, arguments, message):
    given = arguments if any(a.startswith("checkpoint=") for a in arguments) else [f"checkpoint={run}", *arguments]
    done = command(*given, *FEW, main=compress.main)
    assert done.code == 2, done.err
    assert message in done.err
    assert done.err.strip().count("\n") <= 1


@pytest.mark.parametrize("run", ["gan", "vae"], indirect=True)
def test_distillation_from_a_run(command, run, tmp_path):
    student = [f"objective.generator.{key}=8" for key in ("base_channels", "max_channels")]
    student.append("objective.generator.patch=1")
    done = command("experiment=distill", f"teacher={run}", *student, *QUICK, f"run_dir={tmp_path / 'student'}")
    assert done.code == 0, done.err
    pipe = load(tmp_path / "student")
    assert pipe.config["teacher"] == str(run)
    assert pipe.config["data"] == load(run).config["data"]
    assert pipe("a red circle", 3).pixels.shape == (1, 3, 16, 16)
    start, end = f"init={tmp_path / 'student'}", f"run_dir={tmp_path / 'ended'}"
    done = command("experiment=distill_data", f"teacher={run}", start, end, *student, *QUICK)
    assert done.code == 0, done.err
    assert load(tmp_path / "ended").config["objective"]["real"] == "data"
    shutil.rmtree(run)  # to draw, a student needs its teacher no more
    assert len(load(tmp_path / "student")("a red circle", seeds=range(2)).images) == 2


@pytest.mark.parametrize("run", ["gan", pytest.param("vae", marks=pytest.mark.slow)], indirect=True)
def test_a_text_encoder_from_a_run(command, run, tmp_path, monkeypatch):
    """Trained, drawn, measured, made faster beside its teacher, exported; without the teacher's run and its encoder."""
    student = tmp_path / "student"
    small = ["objective.made=64", "text.network.channels=16", "text.network.num_layers=1"]
    done = command("experiment=distill_text", f"teacher={run}", *small, *QUICK, f"run_dir={student}")
    assert done.code == 0, done.err
    teacher, pipe = load(run), load(student)
    assert pipe.config["data"]["source"] == teacher.config["data"]["source"]
    networks = (each.objective.get_submodule(each.objective.draws_with) for each in (pipe, teacher))
    own, theirs = (dict(network.named_parameters()) for network in networks)
    for name, weight in theirs.items():
        assert torch.equal(own[f"generator.{name}"], weight)
    fast = tmp_path / "fast"
    with_onnx = run.name == "vae"  # slow: minutes of export; its captions may have another length than calibration's
    if with_onnx:
        monkeypatch.setattr(baselines, "PACKAGES", PACKAGES)
    done = command(f"checkpoint={student}", "compression=[fold,int8_dynamic]", f"out={fast}", *FEW, main=compress.main)
    assert done.code == 0, done.err
    rows = [line.split("  ")[0] for line in done.out[done.out.index("\nteacher ") + 1 :].splitlines()]
    ways = ["teacher", "teacher + fold", *["teacher + fold in onnxruntime"] * with_onnx]
    ways += ["student", "fold", "int8_dynamic"]
    assert rows[: len(ways)] == ways, done.out
    if with_onnx:
        assert rows[len(ways)] == "int8_dynamic in onnxruntime" or "int8_dynamic in onnxruntime: " in done.err
    out = tmp_path / "export"
    done = command(f"checkpoint={student}", f"out={out}", "formats=[safetensors,onnx]", main=export)
    assert done.code == 0, done.err
    shutil.rmtree(run)
    drawn = pipe("a red circle", seeds=range(2)).pixels
    for place, most in ((student, 0), (out, 0), (out / "model.onnx", 1), (fast, 32)):
        found = load(place)("a red circle", seeds=range(2)).pixels
        assert (found.int() - drawn.int()).abs().max() <= most
    done = command(f"checkpoint={student}", f"out={out}", "formats=[safetensors]", main=export)
    assert done.code == 0, done.err
    assert load(out / "model.onnx")("a red circle", 1).pixels.shape == (1, 3, 16, 16), "it is still known"
    again = tmp_path / "again"
    done = command(f"checkpoint={out}", f"out={again}", "formats=[safetensors]", main=export)
    assert done.code == 0, done.err
    shutil.rmtree(out)
    assert torch.equal(load(again)("a red circle", seeds=range(2)).pixels, drawn)


def test_a_run_without_a_frozen_encoder_has_none_to_learn_from(command, gan, tmp_path):
    scratch = shutil.copytree(gan, tmp_path / "scratch")
    config = scratch / "config.yaml"
    frozen, trained = "trainer.text.pretrained.Pretrained", "trainer.text.scratch.HashTokenizer"
    config.write_text(config.read_text().replace(frozen, trained))
    done = command("experiment=distill_text", f"teacher={scratch}", f"run_dir={tmp_path / 'student'}")
    assert done.code == 2
    assert done.err == (
        f"teacher={scratch} has no frozen text encoder to learn from: give a run of text=minilm, bert, clip or alike\n"
    )


def test_distillation_without_a_teacher_is_one_line(command):
    done = command("experiment=distill")
    assert done.code == 2
    assert "name the run to learn from" in done.err
    done = command("experiment=distill", "teacher=outputs/nothing")
    assert done.code == 2
    assert "teacher=outputs/nothing does not exist" in done.err


@pytest.mark.parametrize("run", ["gan"], indirect=True)
def test_an_export_of_a_halved_one_stays_halved(command, run, tmp_path):
    done = command(f"checkpoint={run}", "compression=[half]", "metrics=[]", *FEW, main=compress.main)
    assert done.code == 0, done.err
    halved, again = run / "compressed" / "half", tmp_path / "exported"
    done = command(f"checkpoint={halved}", f"out={again}", main=export)
    assert done.code == 0, done.err
    before, after = (load_file(folder / "model.safetensors") for folder in (halved, again))
    assert before.keys() == after.keys()
    assert all(before[key].dtype == after[key].dtype and torch.equal(before[key], after[key]) for key in before)
    assert any(each.dtype == torch.float16 for each in after.values())
    images = [load(folder)("a red apple", seeds=[0, 1]).pixels for folder in (halved, again)]
    assert torch.equal(*images)
