"""The verb that measures a trained run."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from hydra.utils import instantiate

from trainer import evaluate
from trainer.exports import generator
from trainer.runs import checkpoint, results, scenes_probe

TINY = ["data.source.num_images=60", "data.resolution=16", "data.batch_size=8", "text=scratch"]
NARROW = [f"objective.{n}.{k}=8" for n in ("generator", "discriminator") for k in ("base_channels", "max_channels")]
NARROW_VAE = [
    f"objective.autoencoder.{n}.{k}=8" for n in ("encoder", "decoder") for k in ("base_channels", "max_channels")
]


@pytest.fixture
def small_probe(monkeypatch):
    monkeypatch.setattr(scenes_probe, "NUM_SCENES", 256)
    monkeypatch.setattr(scenes_probe, "NUM_TESTS", 64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    quick = ["kimg=0.016", "callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"]
    command = [sys.executable, "-m", "trainer", "experiment=cvae", *TINY, *NARROW_VAE, *quick]
    command += [f"run_dir={folder / 'run'}", f"data.cache_dir={folder / 'cache'}"]  # a cache of its own: a poor probe
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


EVERY = {
    *("fd_effnet", "kd_effnet", "precision_effnet", "recall_effnet", "density_effnet", "coverage_effnet"),
    *("diversity_effnet", "psnr", "ssim", "bits_per_value", "iwae_bits_per_value"),
    *(f"attributes_{name}" for name in ("colour", "shape", "size", "position", "background", "count", "scene", "open")),
}


def test_all_figures_that_fit_the_run(command, run, small_probe):
    first = command(f"checkpoint={run}", "num_images=24", main=evaluate.main)
    assert first.code == 0, first.err
    found = results.read(run)
    assert {figure.metric for figure in found} == EVERY
    by_name = {figure.metric: figure for figure in found}
    assert by_name["fd_effnet"].protocol["num_images"] == 24
    assert by_name["psnr"].protocol["num_images"] == by_name["fd_effnet"].protocol["num_references"]
    assert all(0 <= by_name[f"attributes_{name}"].value <= 1 for name in ("colour", "scene"))
    assert all(name in first.out for name in EVERY)
    anchors = {figure.metric: figure.anchors for figure in found if figure.anchors}
    without = {"attributes_open", "psnr", "ssim", "bits_per_value", "iwae_bits_per_value"}
    assert EVERY - anchors.keys() - {"diversity_effnet"} == without  # which has some where captions repeat
    again = command(f"checkpoint={run}", "num_images=24", main=evaluate.main)
    assert again.out == first.out, "the probe and the references are kept, the samples are the same"
    assert "training the probe" in first.err and "training the probe" not in again.err
    assert results.read(run) == found


def test_two_processes_find_what_one_does(command, run, small_probe, tmp_path):
    chosen = "metrics=[fd,kd,precision,recall,density,coverage,diversity,reconstruction]"
    figures_of = []
    for ranks in (1, 2):
        place = shutil.copytree(run, tmp_path / str(ranks), ignore=shutil.ignore_patterns("metrics.json"))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if ranks > 1 else []
        arguments = ["-m", "trainer.evaluate", f"checkpoint={place}", "num_images=25", "device=cpu", chosen]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, *launcher, *arguments], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        figures_of.append(results.read(place))
    assert len(figures_of[0]) == 9
    for one, two in zip(*figures_of, strict=True):
        assert one.metric == two.metric and one.protocol == two.protocol
        assert two.value == pytest.approx(one.value, rel=1e-6, abs=1e-9)


def test_sample_counts_in_one_command(command, run, small_probe):
    assert command("-m", f"checkpoint={run}", "num_images=20,30", "metrics=[fd]", main=evaluate.main).code == 0
    counts = [figure.protocol["num_images"] for figure in results.read(run) if figure.metric == "fd_effnet"]
    assert {20, 30} <= set(counts)


def test_a_script_in_a_job_of_several_tasks_measures_alone(command, run, monkeypatch):
    for key, value in (("SLURM_NTASKS", "2"), ("SLURM_JOB_NAME", "job"), ("SLURM_PROCID", "0")):
        monkeypatch.setenv(key, value)
    result = command(f"checkpoint={run}", "num_images=20", "metrics=fd", main=evaluate.main)
    assert result.code == 0, result.err


def test_a_torn_probe_is_trained_again(run, small_probe, tmp_path):
    probe, _ = scenes_probe.scenes_probe(16, 1, tmp_path)
    [file] = (tmp_path / "probes").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    again, _ = scenes_probe.scenes_probe(16, 1, tmp_path)
    assert all(map(torch.equal, probe.state_dict().values(), again.state_dict().values()))
    (tmp_path / "file").write_text("no folder")
    scenes_probe.scenes_probe(16, 1, tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["metrics=[fdd]"], "fdd is none of fd, kd"),
        (["metrics=[clip_score]"], "clip_score needs clip="),
        (["metrics=[r_precision]"], "r_precision needs matching=RUN"),
        (["metrics=[inception_score]"], "inception_score needs backbone=inception"),
        (["split=test"], "split=test: expected heldout or train"),
        (["num_images=1"], "expected at least 2"),
        (["precision=fp8"], "precision=fp8: expected bfloat16, or null for float32"),
    ],
)
def test_what_is_missing_is_said(command, run, arguments, said):
    result = command(f"checkpoint={run}", *arguments, main=evaluate.main)
    assert result.code == 2
    assert said in result.err


def test_a_backbone_that_taught_is_no_judge(command, run, tmp_path):
    taught = shutil.copytree(run, tmp_path / "taught")
    file = max(taught.glob("checkpoints/kimg*.ckpt"))
    saved = torch.load(file, weights_only=True)
    backbone = {"_target_": "trainer.backbones.effnet_lite0.load", "resolution": 32}  # as runs of before name it
    saved["config"] |= generator.configuration({"objective": {"discriminator": {"backbone": backbone}}}, {}) | {
        "objective": saved["config"]["objective"]
    }
    torch.save(saved, file)
    asked = [f"checkpoint={taught}", "num_images=20", "metrics=[fd]"]
    refused = command(*asked, main=evaluate.main)
    assert refused.code == 2 and "backbone effnet_lite variant=0 taught a network of this run" in refused.err
    assert "backbone=effnet_lite2" in refused.err
    assert command(*asked[:2], "metrics=[reconstruction]", main=evaluate.main).code == 0, "no backbone is asked"
    assert command(*asked, "backbone=effnet_lite2", main=evaluate.main).code == 0


def test_the_teacher_is_no_judge(command, run, tmp_path):
    quick = ["kimg=0.016", "logger.wandb=null", f"data.cache_dir={tmp_path / 'cache'}", "callbacks.retrieval=null"]
    narrow = ["objective.matcher.image_encoder.base_channels=8", "objective.matcher.image_encoder.max_channels=8"]
    matching = tmp_path / "matching"
    assert command("experiment=matching", *TINY, *narrow, *quick, f"run_dir={matching}").code == 0
    taught = shutil.copytree(run, tmp_path / "taught")
    file = max(taught.glob("checkpoints/kimg*.ckpt"))
    saved = torch.load(file, weights_only=True)
    asked = [f"checkpoint={taught}", f"matching={matching}", "metrics=r_precision"]
    for teacher in (matching, max(matching.glob("checkpoints/kimg*.ckpt"))):
        saved["config"]["objective"]["matcher"] = str(teacher)
        torch.save(saved, file)
        with pytest.MonkeyPatch.context() as patch:  # it is of a VAE, which takes no matcher
            patch.setattr(checkpoint, "instantiate", lambda node, **more: instantiate(without_matcher(node), **more))
            result = command(*asked, main=evaluate.main)
        assert result.code == 2 and "it taught the generator" in result.err
    kept = generator.configuration(saved["config"], {})  # of a compressed or exported one
    assert kept["matcher"] == saved["config"]["objective"].pop("matcher")
    saved["config"]["matcher"] = kept["matcher"]
    torch.save(saved, file)
    result = command(*asked, main=evaluate.main)
    assert result.code == 2 and "it taught the generator" in result.err


def without_matcher(node):
    if isinstance(node, list):  # passes on how a network runs
        return node
    return {key: value for key, value in node.items() if key != "matcher" or isinstance(value, dict)}


def test_evaluate_needs_a_checkpoint(command, tmp_path):
    result = command(f"checkpoint={tmp_path / 'none'}", main=evaluate.main)
    assert result.code == 2
    assert "does not exist" in result.err
