"""W&B's process, frozen and killed: nothing of a training waits for it for long, and it is one line."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.loggers.ending import cores
from tests.loggers.offline import history, records
from trainer.loggers import service
from trainer.loggers.wandb import WandB

SECONDS = 1.0  # for a word here


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setattr(service, "ANSWER", SECONDS)
    monkeypatch.setattr(service, "FINISH", SECONDS)
    yield
    for core in cores(os.getpid()):
        os.kill(core, signal.SIGKILL)


@pytest.fixture
def logger(tmp_path, request):
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    request.getfixturevalue("patience")  # not before: on a busy machine a healthy process may need longer
    return logger


def send(name):
    for core in cores(os.getpid()):
        os.kill(core, getattr(signal, name))


def wait_for_history(folder):
    """It writes every other second, and on a busy machine later."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(Exception):  # the file may end in the middle of a record
            if history(records(folder)):
                return
        time.sleep(0.2)


def line_of(capsys, why):
    err = capsys.readouterr().err
    assert err.startswith(f"The process of W&B {why}") and err.count("\n") == 1
    assert Path(err.split("wandb sync ")[1].strip()).is_dir()


WHY = {"SIGSTOP": "has not answered for 1 s", "SIGKILL": "is gone ("}


@pytest.mark.parametrize("name", WHY)
def test_the_end_of_a_run(logger, tmp_path, capsys, name):
    wait_for_history(tmp_path)
    send(name)
    start = time.monotonic()
    logger.finalize("success")
    assert time.monotonic() - start < SECONDS + 2
    line_of(capsys, WHY[name])
    assert [row["loss"] for row in history(records(tmp_path))] == [1.0]
    assert cores(os.getpid()) == []


def test_words_to_a_lost_socket_are_no_lines(logger, caplog):
    """W&B's queue holds several where the machine is busy, and asyncio tells each after the fifth."""

    async def speak():
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        theirs.close()
        for _ in range(20):
            writer.write(b"word")
        logging.getLogger("asyncio").warning("another")

    asyncio.run(speak())
    logger.finalize("success")
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == ["another"]


def image(logger):
    logger.log_image("samples", [np.zeros((4, 4, 3), np.uint8)], step=2, caption=["a"])


def table(logger):
    logger.log_sample_table("samples/table", ["a"], [0], [np.zeros((4, 4, 3), np.uint8)], step=2)


WORDS = {
    "metrics": lambda logger: logger.log_metrics({"loss": 1.0}, step=2),
    "hyperparams": lambda logger: logger.log_hyperparams({"seed": 7}),
    "image": image,
    "table": table,
    "summary": lambda logger: logger.log_summary({"best": 1.0}),
    "data": lambda logger: logger.log_data("emoji", {"images": 3}),
    "model": lambda logger: logger.log_model(Path(__file__), ["latest"], {}, False),
    "upload": lambda logger: logger.log_model(Path(__file__), ["latest"], {}, True),
    "alert": lambda logger: logger.alert("title", "text", "INFO"),
}


@pytest.mark.parametrize("word", WORDS)
def test_in_the_middle_of_a_training_it_is_frozen(logger, capsys, word):
    send("SIGSTOP")
    logger.experiment._console_raw_callback("stdout", "x" * 3_000_000)  # its socket takes no more
    start = time.monotonic()
    WORDS[word](logger)
    assert time.monotonic() - start < SECONDS + 2
    line_of(capsys, WHY["SIGSTOP"])
    for other in WORDS.values():
        other(logger)
    assert logger.where == ""
    logger.finalize("success")
    assert time.monotonic() - start < SECONDS + 3
    assert capsys.readouterr().err == ""


def test_in_the_middle_of_a_training_it_is_killed(logger, capsys):
    send("SIGKILL")
    start = time.monotonic()
    for word in [*WORDS.values()] * 3:
        word(logger)
    logger.finalize("success")
    assert time.monotonic() - start < 4
    line_of(capsys, WHY["SIGKILL"])


def test_the_next_run_of_this_process_has_one_of_its_own(logger, tmp_path, capsys):
    send("SIGSTOP")
    logger.finalize("failed")
    line_of(capsys, WHY["SIGSTOP"])
    time.sleep(1)  # folders are named by the second
    later = WandB(str(tmp_path))
    later.log_metrics({"loss": 2.0}, step=2)
    later.finalize("success")
    assert history(records(tmp_path))[-1]["loss"] == 2.0
    assert capsys.readouterr() == ("", "") and cores(os.getpid()) == []


@pytest.mark.parametrize("name", WHY)
def test_as_a_run_starts(tmp_path, patience, monkeypatch, capsys, name):
    import wandb

    setup = wandb.setup

    def broken(settings):
        started = setup(settings)
        send(name)
        return started

    monkeypatch.setattr(wandb, "setup", broken)
    logger = WandB(str(tmp_path), init_timeout=SECONDS)
    start = time.monotonic()
    logger.log_metrics({"loss": 1.0}, step=1)
    assert time.monotonic() - start < 2 * SECONDS + 4
    assert logger.where == ""
    logger.finalize("success")
    err = capsys.readouterr().err
    assert err.startswith("W&B offline: ") and err.count("\n") == 1
    assert name == "SIGKILL" or "its process has not answered for" in err


def test_a_time_for_the_end_from_the_environment(tmp_path, patience, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "0.5")
    monkeypatch.setattr(service, "FINISH", 60)
    monkeypatch.setattr(service, "LAST", 0.5)
    logger = WandB(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=1)
    send("SIGSTOP")
    start = time.monotonic()
    logger.finalize("success")
    assert time.monotonic() - start < 4
    line_of(capsys, WHY["SIGSTOP"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "state", "lines"),
    [("SIGSTOP", 3, "", 1), ("SIGKILL", 0, "", 1), ("SIGSTOP", 0, "finished", 0), ("SIGSTOP", 0, "immortal", 1)],
)
def test_a_process_ends_with_its_own_code(tmp_path, name, code, state, lines):
    told = tmp_path / "stderr"
    command = [sys.executable, "-m", "tests.loggers.ending", str(tmp_path), name, str(code), state]
    with open(told, "w") as stderr:  # a pipe would be open as long as the process of W&B is
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    core = ""
    try:
        while (said := process.stdout.readline()) != "trained\n":
            assert said.strip().isdigit(), told.read_text()
            core = said
        assert process.wait(10) == code
        assert told.read_text().count("\n") == lines, told.read_text()
    finally:
        process.kill()
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(core), signal.SIGKILL)
