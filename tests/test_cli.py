"""The command line as a user meets it: mistakes, help, run folders, resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from trainer.runs import run_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
MISTAKES = {
    "root key": (["sed=1"], "sed: no such key; did you mean seed?"),
    "added root key": (["+sed=1"], "sed: no such key; did you mean seed?"),
    "key in a node": (["data.resolutoin=64"], "data.resolutoin: no such key; did you mean data.resolution?"),
    "node of a key": (["dta.resolution=64"], "dta.resolution: no such key; did you mean data.resolution?"),
    "key without its node": (["resolution=64"], "resolution: no such key; did you mean data.resolution?"),
    "added key": (
        ["+data.resolutoin=64"],
        "data.resolutoin: standin.Data takes no resolutoin; did you mean data.resolution?",
    ),
    "argument of a base": (["+objective.network.wdth=64"], "did you mean objective.network.width?"),
    "group": (["objectve=gan"], "objectve: no such key; did you mean objective?"),
    "added group": (["+experimnt=small"], "experimnt: no such key; did you mean experiment?"),
    "option": (["data=emojis"], "data=emojis: no such option; did you mean emoji?"),
    "far option": (["strategy=quantum"], "strategy=quantum: no such option; choose one of auto, ddp, "),
    "group of a part": (["generator=dcgan"], "generator: no such group in this configuration"),
    "callback": (["+callbacks.sample.every=2"], "callbacks.sample: no such part; did you mean samples?"),
    "type of a root key": (["seed=abc"], "seed: Value 'abc' of type 'str' could not be converted to Integer"),
    "type of an argument": (["data.batch_size=abc"], "data.batch_size=abc: expected int"),
    "type of a base's argument": (["objective.network.rate=fast"], "rate=fast: expected float"),
    "null": (["data.batch_size=null"], "data.batch_size=None: expected int"),
    "budget": (["kimg=0"], "kimg=0.0, data.batch_size=64: expected more than 0"),
    "value that a part refuses": (["data.source=refused"], "standin.Data: no such source"),
    "missing argument": (["~data.resolution"], "missing 1 required positional argument: 'resolution'"),
    "run folder": (["run_dir=/proc/nowhere"], "run_dir=/proc/nowhere: No such file or directory"),
    "accelerator": (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: no GPU is visible here"),
    "bool for a number": (["data.batch_size=true"], "data.batch_size=True: expected int"),
    "class": (["objective._target_=standin.Objectiv"], "there is no standin.Objectiv; did you mean Objective?"),
    "module": (
        ["objective._target_=trainer.objectivs.gan.GAN"],
        "there is no trainer.objectivs; did you mean objectives?",
    ),
    "interpolation": (["data.batch_size='${data.size}'"], "Interpolation key 'data.size' not found"),
    "group without option": (["data=null"], "Got NoneType; a part is left out by ~group"),
    "syntax": (["data.batch_size=["], "no viable alternative at input '['"),
    "user error": (["data.source=bad"], "data.source=bad: expected good"),
    "permission": (["data.source=denied"], "/data: Permission denied"),
    "resume": (["resume=nowhere"], "or a checkpoint in one, and nothing is there"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(project, command, case):
    arguments, expected = MISTAKES[case]
    result = command("experiment=small", *arguments)
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert result.code == 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("kimgg: 3", "experiment/wrong.yaml: kimgg: no such key; did you mean kimg?"),
        ("data: {resolutoin: 8}", "data.resolutoin: standin.Data takes no resolutoin; did you mean data.resolution?"),
        ("text: {widht: 8}", "experiment/wrong.yaml: text.widht: no such key; did you mean text.width?"),
        ("objective: {network: {dept: 8}}", "did you mean objective.network.depth?"),
        ("callbacks: {sampels: {every: 8}}", "callbacks.sampels: no such part; did you mean samples?"),
        ("defaults: [{override /dta: shapes}]", "dta: no such group in this configuration; did you mean data?"),
        ("defaults: [{override /data: shaps}]", "data=shaps: no such option; did you mean shapes?"),
    ],
)
def test_a_mistake_inside_an_experiment_file(project, command, lines, expected):
    header = "# @package _global_\n" + ("" if "defaults" in lines else "defaults: [{override /objective: gan}]\n")
    (project / "conf/experiment/wrong.yaml").write_text(
        f"{header}name: wrong\nkimg: 1\n".replace("kimg: 1\n", "") + lines
    )
    result = command("experiment=wrong")
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert result.code == 2


def test_no_experiment(project, command):
    result = command("train")
    assert result.code == 2
    assert "experiment=NAME" in result.err
    assert "small" in result.err


def test_a_mistake_leaves_no_folder_behind(project, command):
    command("experiment=small", "data.resolutoin=64")
    command("experiment=small", "+data.resolutoin=64")
    assert not (project / "outputs").exists()


def test_a_bug_keeps_its_traceback(project, command):
    result = command("experiment=small", "data.source=broken")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "RuntimeError: a bug" in result.err


FULL = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1 GiB is free"


def test_a_gpu_that_is_full_is_told_with_what_takes_less(finished, command, monkeypatch):
    import standin

    def fit(self, objective, datamodule, ckpt_path):
        raise torch.OutOfMemoryError(f"{FULL}. Process 7 has 78 GiB in use.\nSee the documentation")

    monkeypatch.setattr(standin.Trainer, "fit", fit)
    checkpoint = finished / "checkpoints/kimg000000.640.ckpt"
    before = checkpoint.read_bytes()
    result = command("resume=done")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert result.err.startswith(f"{FULL}: ")
    for remedy in ("objective.accumulate=", "data.batch_size", "trainer.precision=", "strategy=", " batch_size"):
        assert remedy in result.err
    assert json.loads((finished / "end.json").read_text())["reason"] == result.err.strip()
    assert checkpoint.read_bytes() == before


def test_a_run_goes_on_in_smaller_parts():
    run_folder.refuse_another({"objective": {"accumulate": 1}}, OmegaConf.create({"objective": {"accumulate": 2}}))


@pytest.mark.parametrize("module", ["trace", "shelve"])
def test_a_module_that_hydra_refuses_is_to_be_renamed(project, command, monkeypatch, module):
    (project / f"{module}.py").write_text("class Mine:\n    pass\n")
    monkeypatch.delitem(sys.modules, module, raising=False)
    result = command("experiment=small", f"+callbacks.mine._target_={module}.Mine")
    assert result.code == 2
    assert result.err == f"Target '{module}.Mine': Hydra builds nothing of a module {module}; rename the module\n"


def test_both_spellings_run_the_same(project, command):
    for argument in ("experiment=small", "+experiment=small"):
        result = command(argument)
        assert result.code == 0
        assert "max_steps=16 start=0 checkpoint=None" in result.out  # ceil(1000 / 64)


def test_run_folder_explains_itself(project, command):
    command("experiment=small", "seed=7", "run_dir=here")
    config = yaml.safe_load((project / "here/config.yaml").read_text())
    assert config["seed"] == 7
    assert config["trainer"]["max_steps"] == 16
    environment = (project / "here/environment.txt").read_text()
    assert "seed=7" in environment
    assert "torch==" in environment
    written = {"config.yaml", "composed.yaml", "environment.txt", "end.json", "report.html"}
    assert {file.name for file in (project / "here").iterdir()} == written


def test_two_runs_of_one_second_have_two_folders(project, command):
    command("experiment=small")
    command("experiment=small")
    first, second = sorted((project / "outputs/small").iterdir())
    assert second.name == f"{first.name}-2"


def test_children_find_the_folder_in_the_environment(project, command, monkeypatch):
    monkeypatch.setenv("TRAINER_RUN_DIR", "shared")
    assert "root=shared" in command("experiment=small").out


def test_tasks_of_a_slurm_step_share_a_folder(project, command, monkeypatch):
    for key, value in {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(key, value)
    for _ in range(2):
        assert "root=outputs/small/slurm-12.0\n" in command("experiment=small").out


def test_one_process_strategy_among_many_processes(project, command, monkeypatch):
    for key, value in {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(key, value)
    result = command("experiment=small", "strategy=single")
    assert result.err == "strategy Single is of one process, the launcher started 2; say strategy=ddp\n"


@pytest.fixture
def finished(project, command) -> Path:
    """A run of `small` in the folder `done`, with a checkpoint at 640 images."""
    assert command("experiment=small", "data=shapes", "run_dir=done").code == 0
    (project / "done/checkpoints").mkdir()
    config = yaml.safe_load((project / "done/config.yaml").read_text())
    saved = {"config": config, "state_dict": {}, "ema": {}, "images_seen": 640}
    torch.save(saved, project / "done/checkpoints/kimg000000.640.ckpt")
    return project / "done"


def test_resume_goes_on_in_the_folder_by_its_own_configuration(finished, command):
    result = command("resume=done", "kimg=2")
    assert result.code == 0, result.err
    assert "max_steps=32 start=640 checkpoint=done/checkpoints/kimg000000.640.ckpt root=done\n" in result.out
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["kimg"] == 2
    assert config["data"] == {"_target_": "standin.Data", "resolution": 16, "batch_size": 64}  # nothing of data=emoji
    assert (finished / "environment.txt").read_text().count("command ") == 2


def test_resume_of_a_file_and_with_the_experiment_named(finished, command):
    assert "start=640" in command("resume=done/checkpoints/kimg000000.640.ckpt").out
    assert "start=640" in command("resume=done", "experiment=small", "data=shapes").out


def test_a_restart_in_the_same_folder_goes_on(finished, command, monkeypatch):
    monkeypatch.setenv("TRAINER_RUN_DIR", "done")
    assert "start=640" in command("experiment=small", "data=shapes").out


def test_a_checkpoint_without_its_folder_begins_a_new_run(finished, command):
    (finished / "checkpoints/kimg000000.640.ckpt").rename("copy.ckpt")
    result = command("resume=copy.ckpt", "experiment=small", "data=shapes")
    assert "start=640 checkpoint=copy.ckpt root=outputs/small/" in result.out
    assert command("resume=copy.ckpt").code == 2


@pytest.mark.parametrize("changed", ["data.batch_size=32", "seed=1", "+objective.images=3"])
def test_resume_refuses_another_run(finished, command, changed):
    before = (finished / "config.yaml").read_text()
    result = command("resume=done", changed)
    assert result.code == 2
    assert changed.lstrip("+") in result.err
    assert "the checkpoint is of a run with" in result.err
    assert (finished / "config.yaml").read_text() == before


def test_resume_may_change_what_does_not_change_the_result(finished, command):
    result = command("resume=done", "callbacks.ema=null", "logger.csv=null", "+data.num_workers=2")
    assert "callbacks=1 " in result.out, result.err


def test_sweep(project, command):
    result = command("-m", "experiment=small", "seed=1,2")
    assert result.code == 0, result.err
    runs = sorted((project / "outputs/sweep").glob("*/*/config.yaml"))
    assert [yaml.safe_load(run.read_text())["seed"] for run in runs] == [1, 2]
    assert [yaml.safe_load(run.read_text())["trainer"]["default_root_dir"][-1] for run in runs] == ["0", "1"]


def test_interrupted_runs_say_so(project, command):
    assert command("experiment=small", "+callbacks.samples.signal=15").code == 143


def test_other_ranks_say_who_they_are(project, command, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert command("experiment=small", "data.source=bad").err == "rank 1: data.source=bad: expected good\n"


def test_a_process_that_would_train_alone_beside_others_writes_nothing(project, command, monkeypatch):
    for key, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    result = command("experiment=small")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "RANK=1, but no LOCAL_RANK and no LOCAL_WORLD_SIZE: start by torchrun or srun" in result.err
    assert not (project / "outputs").exists()


def test_a_closed_pipe_is_no_error(project):
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_own_conf_extends_and_overrides(project, command):
    (project / "conf/data/mine.yaml").write_text("_target_: standin.Data\nresolution: 16\nbatch_size: 10\n")
    assert "max_steps=100 " in command("experiment=small", "data=mine").out
    shown = command("--info", "searchpath").out
    assert shown.index("./conf") < shown.index("main")


def test_cfg_shows_the_job(project, command):
    shown = yaml.safe_load(command("experiment=small", "--cfg", "job", "--resolve").out)
    assert shown["trainer"]["max_steps"] == 16
    assert "hydra" not in shown


def test_help_lists_experiments_and_is_quick(project):
    before = os.times()
    command = [sys.executable, "-X", "importtime", "-m", "trainer", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    after = os.times()
    assert result.returncode == 0
    assert "  small            one small $5 run\n" in result.stdout
    assert "  data             domains, emoji, " in result.stdout
    for heavy in ("torch", "transformers", "pytorch_lightning", "wandb", "numpy"):
        assert f" {heavy}\n" not in result.stderr
    # of a core, whatever else the machine does; about 0.6 s on an idle one
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5


def test_a_circle_of_causes_ends():
    from omegaconf.errors import ConfigKeyError

    from trainer.config.mistakes import chain

    first, second = ConfigKeyError("first"), ConfigKeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(chain(first)) == [first, second]


HABITS = {
    "size": (["size=64"], "size: no such key; did you mean data.resolution?"),
    "flags": (["--epochs", "5"], "epochs: no such key; did you mean kimg (the budget in thousand images)?"),
    "gpus": (["gpus=2"], "gpus: no such key; did you mean gpus_per_node?"),
    "device": (["device=cuda"], "did you mean gpus_per_node (0 trains on the CPU)?"),
    "data.path": (["data.path=P"], "data.path: no such key; did you mean data=folder data.source.path=...?"),
    "data=PATH": (["data=/my/pictures"], "a path of yours is data=folder data.source.path=/my/pictures"),
    "data=FILE": (["data=my/cats.parquet"], "a path of yours is data=parquet data.source.path=my/cats.parquet"),
    "bare word": (["trian"], "trian: expected key=value"),
    "flag of a letter": (["-n", "4"], "-n: no such flag; expected key=value, or --help"),
    "config": (["--config-name", "small"], "--config-name: a configuration is named by experiment=NAME"),
    "two values": (["kimg=1,2"], "kimg=1,2: -m in front runs once for each value"),
    "infinite": (["kimg=inf"], "kimg=inf, data.batch_size=64: expected more than 0"),
    "negative seed": (["seed=-1"], "seed=-1: expected 0 to 4294967295"),
    "huge seed": (["seed=4294967296"], "seed=4294967296: expected 0 to 4294967295"),
    "all GPUs": (["gpus_per_node=-1"], "gpus_per_node=-1: expected auto, or a number from 0 on"),
    "GPUs in words": (["gpus_per_node=two"], "gpus_per_node=two: expected auto, or a number from 0 on"),
    "no nodes": (["nodes=0"], "nodes=0: expected 1 or more"),
    "a size": (["data.resolution=20"], "data.resolution=20: expected a multiple of 8 from 16 to 1024"),
    "a side": (["data.resolution=[32,20]"], "data.resolution=[32, 20]: expected a multiple of 8 from 16 to 1024, or"),
    "three sides": (["data.resolution=[32,32,32]"], "resolution=[32, 32, 32]: expected a number of pixels, or two"),
    "a size in words": (["data.resolution=32x48"], "resolution=32x48: expected a number of pixels, or two as [64,96]"),
    "no width": (["objective.network.width=0"], "objective.network.width=0: expected 1 or more"),
    "no interval": (["+callbacks.samples.every_steps=0"], "callbacks.samples.every_steps=0: expected 1 or more"),
    "epochs": (
        ["+trainer.max_epochs=3"],
        "trainer.max_epochs=3: the data is one endless stream; the budget is kimg=...",
    ),
    "Lightning's clip": (["+trainer.gradient_clip_val=1"], "objective.clip=1 clips the gradient of each network"),
    "Lightning's accumulation": (["+trainer.accumulate_grad_batches=2"], "objective.accumulate=2"),
}


@pytest.mark.parametrize("case", HABITS)
def test_habits_of_other_programs_get_a_line(project, command, case):
    arguments, expected = HABITS[case]
    result = command("experiment=small", *arguments)
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert result.code == 2


@pytest.mark.parametrize(
    "words", [["small"], ["train", "small"], ["--experiment", "small"], ["train", "--experiment=small"]]
)
def test_an_experiment_by_name_flag_or_verb(project, command, words):
    assert "max_steps=16 start=0" in command(*words).out


def test_the_version(project, command):
    assert command("--version").out.startswith("text-image-trainer ")


@pytest.mark.parametrize("verb", ["sample", "evaluate", "compress", "export", "speed"])
def test_a_verb_may_follow_trainer(project, command, verb):
    result = command(verb)
    assert (result.code, result.err) == (
        2,
        "checkpoint: a value is needed; say checkpoint=RUN, a folder outputs/NAME/TIME\n",
    )


def test_reports_and_dashboards_take_keys_too(project, command):
    assert command("experiment=small", "run_dir=here").code == 0
    assert command("report", "here", "out=page.html").out == "page.html\n"
    assert command("report", "checkpoint=here", "--out", "other.html").out == "other.html\n"
    assert (project / "page.html").read_text() == (project / "other.html").read_text()


BROKEN = {
    "tab": (b"name: x\nkimg:\n\t1\n", "wrong.yaml, line 4: "),
    "indent": (b"name: x\n  kimg: 1\n", "wrong.yaml, line 3: "),
    "twice": (b"name: x\nname: y\n", "wrong.yaml, line 3: while constructing a mapping found duplicate key name"),
    "bracket": (b"name: x\ndefaults: [a\n", "wrong.yaml, line 4: "),
    "Latin-1": (b"# first\nname: caf\xe9\n", "wrong.yaml, line 3: not in UTF-8"),
    "control": (b"name: \x07\n", "wrong.yaml"),
    "a list": (b"- a\n- b\n", "wrong"),
    "defaults of a wrong kind": (b"defaults: 3\n", "wrong"),
    "half a reference": (b"name: ${x\n", "${x"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_the_user(project, command, case):
    content, expected = BROKEN[case]
    (project / "conf/experiment/wrong.yaml").write_bytes(b"# @package _global_\n" + content)
    result = command("experiment=wrong")
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert result.code == 2
    if case == "tab":
        assert command("--help").code == 0


def test_an_experiment_without_its_first_line(project, command):
    (project / "conf/experiment/plain.yaml").write_text("name: plain\nkimg: 1\n")
    result = command("experiment=plain")
    assert result.err == "experiment/plain.yaml: its first line must be `# @package _global_`, as of every experiment\n"
    assert result.code == 2
