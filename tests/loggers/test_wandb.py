import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.loggers.offline import alerts, artifacts, history, records
from trainer.loggers.wandb import WandB


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


def test_what_cannot_be_written_ends_the_log_and_not_the_training(tmp_path, monkeypatch, capsys):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)

    def broken(*_):
        raise ValueError("not\na number")

    monkeypatch.setattr(logger.experiment, "log", broken)
    logger.log_metrics({"loss": 1.0}, step=2)
    logger.log_metrics({"loss": 1.0}, step=3)
    assert capsys.readouterr().err == "W&B stops logging: not a number\n"
    logger.finalize("success")
    assert [row["loss"] for row in history(records(tmp_path))] == [1.0]


def test_wandb_is_imported_only_when_a_run_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # any import of it fails now
    logger = importlib.reload(sys.modules["trainer.loggers.wandb"]).WandB(str(tmp_path))
    assert capsys.readouterr().err == ""
    logger.log_metrics({"loss": 1.0}, step=1)
    assert "W&B is left out: import of wandb halted" in capsys.readouterr().err


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoints" / "kimg000000.001.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("upload", [False, True])
def test_a_model_with_its_aliases_and_data(tmp_path, checkpoint, upload, capsys):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_data("emoji", {"fingerprint": "abc", "images": {"train": 7}})
    logger.log_model(checkpoint, ["latest", "best"], {"kimg": 0.001, "value": 3.5}, upload)
    logger.log_summary({"best/value": 3.5})
    logger.finalize("success")
    assert capsys.readouterr() == ("", "")

    found = records(tmp_path)
    [data], [model] = artifacts(found, "dataset"), artifacts(found, "model")
    assert (data["name"], data["metadata"]) == ("emoji", {"fingerprint": "abc", "images": {"train": 7}})
    assert model["name"] == f"model-{(tmp_path / 'wandb_id').read_text().strip()}"
    assert sorted(model["aliases"]) == ["best", "latest"]
    assert model["metadata"] == {"kimg": 0.001, "value": 3.5}
    [entry] = model["manifest"]["contents"]
    assert (entry["path"], entry["size"]) == (checkpoint.name, "7")
    assert entry.get("ref") == (None if upload else checkpoint.as_uri())
    for entry in data["manifest"]["contents"] + model["manifest"]["contents"]:
        if "local_path" in entry:  # nothing that is to be uploaded lies outside of the run folder
            assert Path(entry["local_path"]).is_relative_to(tmp_path / "wandb")
            assert Path(entry["local_path"]).is_file()
    assert {"best/value": 3.5} in [record["summary"]["update"] for record in found if record["type"] == "summary"]


def test_the_parts_of_a_sharded_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints" / "kimg000000.001.ckpt"
    folder.mkdir(parents=True)
    for rank in range(2):
        (folder / f"rank0000{rank}-of-00002.pt").write_bytes(b"part")
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    for upload in (False, True):
        logger.log_model(folder, ["latest"], {}, upload)
    logger.finalize("success")
    for model in artifacts(records(tmp_path), "model"):
        names = {entry["path"] for entry in model["manifest"]["contents"]}
        assert names == {f"{folder.name}/rank0000{rank}-of-00002.pt" for rank in range(2)}


def test_equal_data_is_one_version(tmp_path):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    for description in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}):
        logger.log_data("emoji", description)
    logger.finalize("success")
    one, same, other = [data["digest"] for data in artifacts(records(tmp_path), "dataset")]
    assert one == same != other


def test_a_table_of_captions_seeds_and_images(tmp_path):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"progress/kimg": 0.5}, step=1)
    logger.log_sample_table("samples/table", ["a", "b"], [0, 1], [np.zeros((4, 4, 3), np.uint8)] * 2, step=1)
    logger.finalize("success")
    found = records(tmp_path)
    row = history(found)[-1]
    assert (row["samples/table.nrows"], row["samples/table.ncols"], row["progress/kimg"]) == (2, 3, 0.5)
    table = json.loads((next(tmp_path.glob("wandb/offline-run-*/files")) / row["samples/table.path"]).read_text())
    assert table["columns"] == ["caption", "seed", "image"]
    assert [cells[:2] for cells in table["data"]] == [["a", 0], ["b", 1]]
    [copies] = artifacts(found, "run_table")
    assert all(Path(e["local_path"]).is_relative_to(tmp_path / "wandb") for e in copies["manifest"]["contents"])


def test_alerts(tmp_path):
    logger = WandB(str(tmp_path))
    logger.alert("Too early", "no run is open", "ERROR")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.alert("Diverged", "loss is nan", "ERROR")
    logger.finalize("failed")
    [alert] = alerts(records(tmp_path))
    assert (alert["title"], alert["text"], alert["level"]) == ("Diverged", "loss is nan", "ERROR")


def test_what_cannot_be_logged_is_one_line(tmp_path, capsys):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_model(tmp_path / "none.ckpt", ["latest"], {}, False)
    logger.log_metrics({"loss": 2.0}, step=2)
    logger.finalize("success")
    err = capsys.readouterr().err
    assert err.startswith("W&B log_model failed: ") and err.count("\n") == 1
    assert [row["loss"] for row in history(records(tmp_path))] == [1.0, 2.0]


def test_runs_of_a_wandb_sweep_are_one_group(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "k2j3")
    logger = WandB(str(tmp_path), group="cgan")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert next(r["run"] for r in records(tmp_path) if r["type"] == "run")["run_group"] == "sweep k2j3"


@pytest.mark.parametrize(
    ("variables", "options", "told", "kept"),
    [
        (
            {"WANDB_MODE": "bogus", "WANDB_PROJECT": "my/project", "WANDB_RUN_ID": "a:b", "WANDB_TAGS": "t" * 70},
            {},
            [
                "WANDB_PROJECT=my/project: my-project",
                "WANDB_TAGS=",
                "WANDB_RUN_ID=a:b: a-b",
                "WANDB_MODE=bogus: offline",
            ],
            {"project": "my-project", "run_id": "a-b", "tags": ["t" * 64]},
        ),
        (
            {"WANDB_MODE": "", "WANDB_NAME": " "},
            {"tags": ["t" * 65, "", "b"], "project": "my/project"},
            ["logger.wandb.project=my/project: my-project", f"logger.wandb.tags={'t' * 65},b: "],
            {"project": "my-project", "tags": ["t" * 64, "b"]},
        ),
    ],
)
def test_what_wandb_would_not_take_is_adapted_with_a_line(
    tmp_path, monkeypatch, capsys, variables, options, told, kept
):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    logger = WandB(str(tmp_path), **options)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    run = next(record["run"] for record in records(tmp_path) if record["type"] == "run")
    assert {key: run[key] for key in kept} == kept
    lines = capsys.readouterr().err.splitlines()
    assert [line for line, words in zip(lines, told, strict=True) if f"W&B takes no {words}" not in line] == []


@pytest.mark.parametrize("broken", ["Settings", "setup", "init"])
def test_whatever_keeps_wandb_from_starting_the_training_goes_on(tmp_path, monkeypatch, capsys, broken):
    """As a user without a home folder has it, in `Settings`."""
    import wandb

    def refuse(*args, **options):
        raise RuntimeError("Could not determine\nhome directory.")

    monkeypatch.setattr(wandb, broken, refuse)
    logger = WandB(str(tmp_path), tags=["a"])
    logger.log_hyperparams({"seed": 7})
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.log_summary({"best": 1.0})
    logger.log_data("data", {"images": 3})
    logger.alert("title", "text", "INFO")
    assert logger.where == ""
    logger.finalize("success")
    err = capsys.readouterr().err
    assert "Could not determine home directory." in err
    assert err.count("\n") == (2 if broken == "init" else 1)  # offline, then disabled
