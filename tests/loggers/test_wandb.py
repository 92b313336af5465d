import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trainer.loggers.wandb import WandB


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


def records(folder: Path) -> list[dict]:
    """Everything in the offline runs of a folder, in the order of their start."""
    wandb = str(Path(sys.executable).with_name("wandb"))
    lines = []
    for run in sorted(folder.glob("wandb/offline-run-*")):
        shown = subprocess.run([wandb, "leet", "inspect", "--json", run], capture_output=True, text=True, check=True)
        lines += shown.stdout.splitlines()
    return [json.loads(line) for line in lines]


def history(found):
    return [record["history"]["item"] for record in found if record["type"] == "history"]


def test_an_offline_run_holds_config_metrics_and_captioned_images(tmp_path, capsys):
    logger = WandB(str(tmp_path), group="cgan", tags=["emoji"])
    logger.log_hyperparams({"data": {"resolution": 32}, "seed": 7})
    logger.log_metrics({"generator/loss": 1.5, "progress/kimg": 0.64}, step=10)
    logger.log_image("samples", [np.zeros((4, 4, 3), np.uint8)] * 2, step=10, caption=["a red apple", "a car"])
    assert logger.where.startswith(f"W&B offline: wandb leet {tmp_path}")
    logger.finalize("success")

    found = records(tmp_path)
    run = next(record["run"] for record in found if record["type"] == "run")
    assert (run["project"], run["run_group"], run["job_type"], run["tags"]) == ("trainer", "cgan", "train", ["emoji"])
    assert "resolution" in json.dumps([record["config"] for record in found if record["type"] == "config"])
    metrics, images = history(found)
    assert metrics["generator/loss"] == 1.5 and metrics["progress/kimg"] == 0.64
    assert images["samples.captions"] == ["a red apple", "a car"] and images["progress/kimg"] == 0.64
    files = [next(tmp_path.glob("wandb/offline-run-*")) / "files" / name for name in images["samples.filenames"]]
    assert len(files) == 2 and all(file.is_file() for file in files)
    axes = {m["metric"].get("glob_name"): m["metric"] for m in found if m["type"] == "metric"}
    assert axes["*"]["step_metric"] == "progress/kimg"
    assert capsys.readouterr() == ("", "")


def test_a_restart_goes_on_with_the_same_run(tmp_path):
    for step in (1, 2):
        logger = WandB(str(tmp_path))
        logger.log_metrics({"loss": float(step), "progress/kimg": step / 10}, step=step)
        logger.finalize("success")
        time.sleep(1)  # folders are named by the second
    found = records(tmp_path)
    ids = {record["run"]["run_id"] for record in found if record["type"] == "run"}
    assert ids == {(tmp_path / "wandb_id").read_text().strip()}
    assert [row["loss"] for row in history(found)] == [1.0, 2.0]


def test_a_dead_server_makes_it_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    logger = WandB(str(tmp_path), init_timeout=2)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert time.monotonic() - start < 15
    assert [row["loss"] for row in history(records(tmp_path))] == [1.0]
    assert capsys.readouterr().err.startswith("W&B online: ")


def test_a_malformed_key_makes_it_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("failed")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
    assert capsys.readouterr().err.startswith("W&B online: ")
    assert "WANDB_DATA_DIR" not in os.environ


def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_RUN_GROUP", "sweep")
    logger = WandB(str(tmp_path), project="trainer", group="cgan")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    run = next(record["run"] for record in records(tmp_path) if record["type"] == "run")
    assert (run["project"], run["run_group"]) == ("mine", "sweep")


def test_disabled_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    assert logger.where == ""
    logger.finalize("success")
    assert not (tmp_path / "wandb").exists()


def test_a_lost_service_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)

    def broken(*_):
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(logger.experiment, "log", broken)
    logger.log_metrics({"loss": 1.0}, step=2)
    logger.log_metrics({"loss": 1.0}, step=3)
    assert capsys.readouterr().err == "W&B stops logging: the service is gone\n"


def test_wandb_is_imported_only_when_a_run_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # any import of it fails now
    logger = importlib.reload(sys.modules["trainer.loggers.wandb"]).WandB(str(tmp_path))
    with pytest.raises(ImportError):
        logger.log_metrics({"loss": 1.0}, step=1)
