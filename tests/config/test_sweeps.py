"""Sweeps: W&B chooses the values, or Optuna does."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.loggers.offline import records
from trainer.config import sweeps
from trainer.config.command_line import parsed
from trainer.config.entry import Training, entry
from trainer.errors import DivergedError

ROOT = Path(__file__).parents[2]
TRIAL = """
import os
from trainer.errors import DivergedError

class Trial:
    def __init__(self, x: float = 1.0):
        self.x = x
    @property
    def best(self):
        print("group", os.environ["WANDB_RUN_GROUP"])
        if self.x == 9:
            raise DivergedError("loss is nan")
        return (self.x - 2.5) ** 2
"""


def test_the_file_for_wandb_sweep_is_a_training(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = yaml.safe_load((ROOT / "launch/wandb-sweep.yaml").read_text())
    values = {key: spec["values"][-1] if "values" in spec else spec["min"] for key, spec in sweep["parameters"].items()}
    expanded = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": ["python"],
        "${args_no_hyphens}": [f"{key}={value}" for key, value in values.items()],  # as `wandb agent` puts it
    }
    words = [word for part in sweep["command"] for word in expanded.get(part, [part])]
    assert words[:4] == ["/usr/bin/env", "python", "-m", "trainer"]

    composed = []
    result = command(*words[4:], main=lambda: entry(composed.append, "config", Training))
    assert result.code == 0, result.err
    assert {key: OmegaConf.select(composed[0], key) for key in values} == values
    assert composed[0].name == "cgan"
    assert sweep["metric"] == {"name": composed[0].callbacks.checkpoint.metric, "goal": "minimize"}


def test_the_search_of_a_gan_names_keys_that_it_has(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    searched = yaml.safe_load((ROOT / "conf/hydra/sweeper/gan.yaml").read_text())["params"]
    composed = []
    arguments = ("+experiment=cgan", "hydra/sweeper=gan")
    result = command(*arguments, main=lambda: entry(composed.append, "config", Training))
    assert result.code == 0, result.err
    assert [key for key in searched if OmegaConf.select(composed[0], key) is None] == []


@pytest.mark.parametrize(
    ("value", "meant"),
    [("0.5", 0.5), ("[1,2]", [1, 2]), ("{a: 1}", {"a": 1}), ("'x, y'", "x, y"), ("''", ""), ("true", True)],
)
def test_keys_of_swept_parts_wait_for_their_run(value, meant):
    key = f"+data.source.thing={value}"
    given = ["-m", "+experiment=cgan_shapes,cvae", key, "kimg=1", "seed=0,1", "hydra.verbose=true"]
    put_off = sweeps.later(given, {"experiment": {}})
    assert [at for at in range(len(given)) if put_off[at] != given[at]] == [2]
    assert sweeps.later(put_off, {"experiment": {}}) == put_off
    [value] = parsed(put_off[2]).sweep_string_iterator()  # what Hydra gives to each run
    assert parsed(f"x={value}").value() == meant
    for other in (given[1:], ["-m", "+experiment=cvae", *given[2:]], [*given, "hydra/sweeper=optuna"]):
        assert sweeps.later(other, {"experiment": {}}) == other, "no sweep over groups, or one of Optuna's"


def test_a_sweep_over_experiments_takes_keys_that_only_these_have(command, tmp_path, monkeypatch):
    """Hydra composes once without the swept experiments: emoji, which the default is of, have no max_objects."""
    monkeypatch.chdir(tmp_path)
    composed = []
    keys = ["data.source.max_objects=1", "data.batch_size=8", "bottleneck@objective.autoencoder.bottleneck=vq"]
    arguments = ["-m", "+experiment=fsq_shapes,vqvae", "data=shapes", "seed=0,1", *keys]
    result = command(*arguments, main=lambda: entry(composed.append, "config", Training))
    assert result.code == 0, result.err
    assert [(cfg.name, cfg.seed) for cfg in composed] == [(n, s) for n in ("fsq_shapes", "vqvae") for s in (0, 1)]
    assert {(cfg.data.source.max_objects, cfg.data.batch_size) for cfg in composed} == {(1, 8)}
    assert {cfg.objective.autoencoder.bottleneck._target_.rpartition(".")[2] for cfg in composed} == {"VQ"}


@pytest.fixture
def trials(project):
    (project / "trial.py").write_text(TRIAL)
    (project / "conf/callbacks/default.yaml").write_text("trial: {_target_: trial.Trial, x: 1.0}\n")
    return project


def test_optuna_minimises_what_a_run_returns(trials, command):
    grid = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "callbacks.trial.x=choice(1.0, 3.0, 9.0)"]
    result = command("+experiment=small", "-m", *grid)  # the flag may stand anywhere
    assert result.code == 0, result.err
    assert "loss is nan" in result.err  # and the sweep went on
    [sweep] = (trials / "outputs/sweep").iterdir()
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert (found["best_params"], found["best_value"]) == ({"callbacks.trial.x": 3.0}, 0.25)
    groups = [line for line in result.out.splitlines() if line.startswith("group ")]
    assert set(groups) == {f"group small sweep {sweep.name}"}


def test_a_run_that_diverges_alone_is_a_failure(trials, command):
    result = command("+experiment=small", "callbacks.trial.x=9", "+hydra.job.env_set.WANDB_RUN_GROUP=x")
    assert (result.code, result.err) == (2, "loss is nan\n")


@pytest.mark.parametrize(("better", "worst"), [("lower", math.inf), ("higher", -math.inf)])
def test_a_trial_that_diverges_is_the_worst(monkeypatch, better, worst):
    hydra = SimpleNamespace(mode=RunMode.MULTIRUN, sweeper=SimpleNamespace(_target_="hydra_plugins.optuna"))
    monkeypatch.setattr(sweeps.HydraConfig, "get", lambda: hydra)

    def diverge(cfg):
        raise DivergedError("loss is nan")

    assert sweeps.run_job(diverge, OmegaConf.create({"callbacks": {"checkpoint": {"better": better}}})) == worst
    hydra.sweeper._target_ = "hydra._internal.BasicSweeper"
    with pytest.raises(DivergedError):  # -m seed=0,1,2: the user shall hear of it
        sweeps.run_job(diverge, OmegaConf.create({}))


def test_optuna_needs_a_measurement(project, command):
    result = command("-m", "+experiment=small", "hydra/sweeper=optuna", "seed=range(0, 3)", "hydra.sweeper.n_jobs=1")
    assert result.code == 2
    assert "hydra/sweeper=optuna has nothing to minimise" in result.err


@pytest.mark.slow
def test_a_search_of_three_runs(tmp_path):
    small = ["data.source.num_images=100", "data.resolution=16", "data.batch_size=8", "text=scratch", "kimg=0.064"]
    quick = ["callbacks.samples=null", "callbacks.evaluation.num_images=16", "callbacks.evaluation.times=2"]
    search = ["-m", "hydra/sweeper=gan", "hydra.sweeper.n_trials=3"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "trainer", "+experiment=cgan_shapes", *search, *small, *quick]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    [sweep] = (tmp_path / "outputs/sweep").iterdir()
    runs = sorted(sweep.glob("*/"))
    assert [run.name for run in runs] == ["0", "1", "2"]
    started = [record["run"] for run in runs for record in records(run) if record["type"] == "run"]
    assert {run["run_group"] for run in started} == {f"cgan_shapes sweep {sweep.name}"}
    assert len({run["run_id"] for run in started}) == 3
    measured = []
    for run in runs:
        with open(run / "metrics.csv", newline="") as file:
            measured += [float(row["val/fd_effnet"]) for row in csv.DictReader(file) if row["val/fd_effnet"]]
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert found["best_value"] == pytest.approx(min(measured), rel=1e-5)
    assert set(found["best_params"]) == {
        *("objective.r1", "objective.matching", "objective.optimizer.generator.lr"),
    }


def test_a_run_that_fails_does_not_stop_the_others(trials, command):
    """One by its mistake, one that diverges, one by a bug: the last has its turn, and the end lists the three."""
    values = ["callbacks.trial.x=9.0,1.0", "data.source=good,bad,broken"]
    result = command("-m", "+experiment=small", *values, "run_dir=swept here")
    assert result.code == 2
    assert "loss is nan\n" in result.err and "data.source=bad: expected good\n" in result.err
    assert result.err.count("\nRuntimeError: a bug\n") == 2
    *_, first, last = result.err.splitlines()[-6:]
    assert result.err.splitlines()[-6] == "failed runs of the sweep: 5"
    assert first == "  4: +experiment=small,callbacks.trial.x=1.0,data.source=bad"
    assert last == "  5: +experiment=small,callbacks.trial.x=1.0,data.source=broken"
    assert (trials / "swept here/3/config.yaml").is_file()


def test_one_mistake_for_all_ends_a_sweep_at_once(project, command):
    result = command("-m", "experiment=small", "seeed=1,2")
    assert (result.code, result.err) == (2, "seeed: no such key; did you mean seed?\n")
