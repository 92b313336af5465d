"""The dashboard against the logs of real runs, which hold everything that is promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Callback

from tests.loggers.offline import alerts, artifacts, history, logged_keys, records
from trainer.callbacks.log import record
from trainer.dashboard import main
from trainer.errors import UserError
from trainer.loggers import dashboard
from trainer.runs import checkpoint

ROOT = Path(__file__).parents[2]
SHORT = [
    *("data.source.num_images=200", "data.resolution=16", "data.batch_size=8", "text=scratch", "kimg=0.096"),
    *("callbacks.log.every_steps=4", "+callbacks.throughput.phases_every=1", "callbacks.checkpoint.times=1"),
]
DRAWN = [
    *("callbacks.samples.num_images=3", "callbacks.samples.times=2", "callbacks.samples.table_rows=2"),
    *("callbacks.evaluation.num_images=16", "callbacks.evaluation.times=1"),
]
RUNS = {
    "gan": [
        *(*DRAWN, "experiment=cgan_shapes", "objective.clip=1", "objective.r2=0.1", "objective.gradient_penalty=0.1"),
        *("+callbacks.early._target_=tests.loggers.test_dashboard.Early", "callbacks.checkpoint.keep=1"),
    ],
    "vae": [*DRAWN, "experiment=cvae"],
    "matching": ["experiment=matching", "callbacks.retrieval.candidates=4", "callbacks.retrieval.times=3"],
}


class Early(Callback):
    """A measurement that no later one comes near, so that the run ends worse than its best."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            record(trainer, {"val/fd_effnet": 1.0})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of short offline runs."""
    folder = tmp_path_factory.mktemp("runs")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name, overrides in RUNS.items():
        command = [sys.executable, "-m", "trainer", *overrides, *SHORT, f"run_dir={name}"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in RUNS}


@pytest.fixture(scope="module")
def logs(runs):
    return {name: records(run) for name, run in runs.items()}


def test_every_key_of_the_dashboard_is_logged(logs, monkeypatch):
    logged = set.union(*map(logged_keys, logs.values()))
    networks = ("discriminator", "generator", "autoencoder", "matcher")
    logged |= {f"{network}/loss_scale" for network in networks}  # of fp16, which is of GPUs
    assert dashboard.panel_keys() - logged == set()
    monkeypatch.setitem(dashboard.CURVES, "Typo", {"Losses": ["generator/los"]})
    assert dashboard.panel_keys() - logged == {"generator/los"}


def test_nearly_every_key_that_is_logged_is_in_the_dashboard(logs):
    """A metric that comes later must not be forgotten."""
    logged = set.union(*map(logged_keys, logs.values()))
    metrics = {key for key in logged if "/" in key}
    assert metrics - dashboard.panel_keys() == {"trainer/global_step"}


def test_images_have_their_captions(runs, logs):
    rows = [row for row in history(logs["gan"]) if "samples/images.captions" in row]
    assert [row["progress/kimg"] for row in rows] == [0.048, 0.096]
    files = next(runs["gan"].glob("wandb/offline-run-*/files"))
    for row in rows:
        assert len(row["samples/images.captions"]) == 3 and all(row["samples/images.captions"])
        assert all((files / name).is_file() for name in row["samples/images.filenames"])
    tables = [row for row in history(logs["gan"]) if "samples/table.nrows" in row]
    assert [(row["samples/table.nrows"], row["progress/kimg"]) for row in tables] == [(2, 0.096)]
    cells = json.loads((files / tables[0]["samples/table.path"]).read_text())["data"]
    assert [(row[0], row[1]) for row in cells] == list(zip(rows[1]["samples/images.captions"][:2], [0, 1], strict=True))


def test_the_model_is_kept_with_its_data(runs, logs):
    [data] = artifacts(logs["gan"], "dataset")
    assert data["name"] == "shapes"
    assert sum(data["metadata"]["images"].values()) == data["metadata"]["config"]["num_images"] == 200
    best, latest = artifacts(logs["gan"], "model")
    assert "best" in best["aliases"] and latest["aliases"] == ["latest"]
    about = best["metadata"]
    assert (about["experiment"], about["metric"], about["value"]) == ("cgan_shapes", "val/fd_effnet", 1.0)
    assert about["data"] == latest["metadata"]["data"] == data["metadata"]["fingerprint"]
    assert (about["kimg"], latest["metadata"]["kimg"]) == (0.032, 0.096)
    assert latest["metadata"]["value"] > 1
    for model, name in ((best, "best.ckpt"), (latest, "kimg000000.096.ckpt")):
        [entry] = model["manifest"]["contents"]
        assert entry["ref"] == (runs["gan"] / "checkpoints" / name).as_uri()
    assert checkpoint.load(runs["gan"] / "checkpoints" / "best.ckpt").images_seen == 32
    summary = [r["summary"].get("update", {}) for r in logs["gan"] if r["type"] == "summary"]
    assert {"best/value": 1.0, "best/kimg": 0.032} in summary
    [only] = artifacts(logs["vae"], "model")
    assert sorted(only["aliases"]) == ["best", "latest"]


def test_the_best_of_a_matcher_is_its_highest(runs, logs):
    values = [row["val/r_precision"] for row in history(logs["matching"]) if "val/r_precision" in row]
    saved = checkpoint.read(runs["matching"] / "checkpoints" / "best.ckpt")
    assert len(values) == 3 and saved["measured"]["value"] == pytest.approx(max(values), rel=1e-6)
    assert saved["measured"]["kimg"] == saved["images_seen"] / 1000, "the weights that were measured"


def test_the_run_warned_that_it_got_worse(logs):
    [alert] = alerts(logs["gan"])
    assert (alert["title"], alert["level"]) == ("Worse again", "WARN")
    assert alert["text"].endswith("at kimg 0.1, the best was 1")
    assert alerts(logs["vae"]) == []


# The verb -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def verb(command, monkeypatch, tmp_path):
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    return lambda *arguments: command(*arguments, main=main)


def test_dump_holds_every_panel(verb, tmp_path):
    result = verb("--dump", str(tmp_path / "x.json"))
    assert (result.code, result.err) == (0, "")
    sections = json.loads((tmp_path / "x.json").read_text())["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections[:5]] == ["Quality", "Samples", "Stability", "Speed", "VAE"]
    text = json.dumps(sections)
    for key in dashboard.panel_keys():
        assert f'{key}"' in text, key


def test_push_without_a_login_is_one_line(verb):
    result = verb("--push")
    assert result.code == 2
    assert result.err == "trainer.dashboard --push needs a login: wandb login, or set WANDB_API_KEY\n"


def test_push_saves_the_workspace(monkeypatch):
    import wandb
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(self) or self)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.ai/me/trainer?nw=1")
    assert dashboard.push("me", "mine") == "https://wandb.ai/me/trainer?nw=1"
    assert [(view.entity, view.project) for view in saved] == [("me", "mine")]

    def refuse(self):
        raise RuntimeError("no such\nproject")

    monkeypatch.setattr(ws.Workspace, "save", refuse)
    with pytest.raises(UserError, match=r"W&B did not take the dashboard for project mine: no such project"):
        dashboard.push("me", "mine")
