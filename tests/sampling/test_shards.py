"""Tar files of images by several processes: every output once, and the bytes of one process."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer import load
from trainer.errors import UserError
from trainer.export import main as export
from trainer.sample import main
from trainer.sampling import shards

CAPTIONS = [f"a {size} {colour} {shape}" for size in ("large", "small", "tiny") for colour in ("red", "blue")
            for shape in ("circle", "square")]  # fmt: skip


def captions_file(folder: Path, count: int) -> Path:
    """Of `count` lines, among them equal ones, and an empty one."""
    lines = [CAPTIONS[i % len(CAPTIONS)] for i in range(count)]
    lines[3] = ""
    file = folder / "captions.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def arguments(run: Path, file: Path, out: Path, each: int = 20) -> list[str]:
    return [f"checkpoint={run}", f"prompts_file={file}", f"images_per_file={each}", f"out={out}", "device=cpu"]


def tars(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.tar")}


def members(folder: Path) -> list[str]:
    return [name for file in sorted(folder.glob("*.tar")) for name in tarfile.open(file).getnames()]


@pytest.fixture
def sample(command):
    return lambda *given: command(*given, "processes=1", main=main)


def test_members_are_the_images_of_their_lines_and_seeds(sample, trained, tmp_path):
    given = arguments(trained, captions_file(tmp_path, 7), tmp_path / "out", each=5)
    done = sample(*given, "seeds=4,9")
    assert done.code == 0, done.err
    assert "12 images" in done.out
    assert "all files are there" in done.out
    numbers = [line * 2 + seed for line in (0, 1, 2, 4, 5, 6) for seed in (0, 1)]
    assert members(tmp_path / "out") == [f"{n:09}.{kind}" for n in numbers for kind in ("png", "json")]
    assert sorted(tars(tmp_path / "out")) == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(tmp_path / "out/00001.tar") as tar:
        origin = json.loads(tar.extractfile("000000009.json").read())
        pixels = np.asarray(Image.open(tar.extractfile("000000009.png")))
        info = tar.getmember("000000009.png")
    assert origin == {"prompt": CAPTIONS[4], "seed": 9, "line": 4}
    assert np.array_equal(pixels, np.asarray(load(trained)(CAPTIONS[4], 9).images[0]))
    assert pixels.std() > 10, "images that are all alike would prove nothing"
    assert (info.mtime, info.uid, info.uname) == (0, 0, "")


def test_a_line_may_be_its_own_seed(sample, trained, tmp_path):
    assert sample(*arguments(trained, captions_file(tmp_path, 6), tmp_path / "out"), "seeds=line").code == 0
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        assert json.loads(tar.extractfile("000000005.json").read()) == {"prompt": CAPTIONS[5], "seed": 5, "line": 5}


def two_until_one_writes(trained: Path, file: Path, out: Path, each: int) -> tuple[subprocess.Popen, int]:
    """A sampling by two processes in a group of their own, and the first of them that writes."""
    command = [sys.executable, "-m", "trainer.sample", *arguments(trained, file, out, each), "processes=2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = subprocess.Popen(command, start_new_session=True, **pipes)
    deadline = time.monotonic() + 120
    while not (writing := [*(out / ".claims").glob("*-*")]):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return both, int(writing[0].name.rpartition("-")[2])


def test_two_killed_processes_and_another_leave_the_bytes_of_one(sample, trained, tmp_path):
    file, two = captions_file(tmp_path, 200), tmp_path / "two"
    assert sample(*arguments(trained, file, tmp_path / "alone", 5)).code == 0
    both, _ = two_until_one_writes(trained, file, two, 5)
    os.killpg(both.pid, signal.SIGKILL)
    both.communicate()
    assert len(tars(two)) < len(tars(tmp_path / "alone"))
    assert list((two / ".claims").glob("*-*")), "one was writing"
    assert sample(*arguments(trained, file, two, 5)).code == 0
    assert tars(two) == tars(tmp_path / "alone")
    assert not list((two / ".claims").glob("*-*"))


@pytest.mark.slow
def test_the_files_of_a_killed_process_are_drawn_by_the_other(sample, trained, tmp_path):
    file, two = captions_file(tmp_path, 2000), tmp_path / "two"
    assert sample(*arguments(trained, file, tmp_path / "alone", 50)).code == 0
    both, writer = two_until_one_writes(trained, file, two, 50)
    os.kill(writer, signal.SIGKILL)
    out, err = both.communicate()
    assert both.returncode == 0, err
    assert re.search(r"process [01] ended with -9, the others drew its files", err), err
    assert re.search(r"all 40 files; \d+ images in", out), out
    assert tars(two) == tars(tmp_path / "alone")
    names = members(two)
    assert len(names) == len(set(names)) == 2 * (2000 - 1)
    assert not list((two / ".claims").glob("*-*"))


def test_a_file_whose_owner_died_is_drawn_after_all(trained, tmp_path, monkeypatch):
    plan, out, written = shards.Plan([(i, "a") for i in range(6)], [0], 2), tmp_path / "out", []
    (out / ".claims").mkdir(parents=True)
    real = shards.write

    def write(plan, folder, number, drawn_of, of_prompt):
        written.append(number)
        if number == 2:
            lock.close()
        return real(plan, folder, number, drawn_of, of_prompt)

    monkeypatch.setattr(shards, "write", write)
    with open(out / ".claims/00001", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shards.draw(load(trained, "cpu"), plan, out, tell=False)[0] == 6
    assert written == [0, 2, 1]


def test_what_is_there_stays_and_what_is_claimed_is_left_to_its_owner(sample, trained, tmp_path):
    given = arguments(trained, captions_file(tmp_path, 30), tmp_path / "out", each=10)
    assert sample(*given).code == 0
    before = tars(tmp_path / "out")
    (tmp_path / "out/00001.tar").unlink()
    (tmp_path / "out/00002.tar").unlink()
    kept = (tmp_path / "out/00000.tar").stat().st_mtime_ns
    with open(tmp_path / "out/.claims/00001") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = sample(*given)
    assert "9 images" in done.out  # the last file has 9 of 29
    assert "1 files not yet there" in done.out
    assert sample(*given).code == 0
    assert tars(tmp_path / "out") == before
    assert (tmp_path / "out/00000.tar").stat().st_mtime_ns == kept


def test_a_folder_of_another_sampling_is_refused(sample, trained, tmp_path):
    file = captions_file(tmp_path, 6)
    given = arguments(trained, file, tmp_path / "out")
    assert sample(*given).code == 0
    older = trained / "checkpoints" / "kimg000000.500.ckpt"
    for other, key in (
        ([*given, "seeds=1"], "seeds"),
        (arguments(trained, file, tmp_path / "out", each=3), "images_per_file"),
        (arguments(older, file, tmp_path / "out"), "checkpoint"),
    ):
        done = sample(*other)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert f"was begun with {key}=" in done.err
    file.write_text("another\n" * 5)
    assert "was begun with prompts=" in sample(*given).err


def test_mistakes_are_one_line(sample, trained, tmp_path):
    file = captions_file(tmp_path, 6)
    for given, message in (
        ([f"checkpoint={trained}", "images_per_file=5"], "expected prompts_file=FILE"),
        ([f"checkpoint={trained}", f"prompts_file={file}", "images_per_file=5"], "expected out=FOLDER"),
        (arguments(trained, file, tmp_path / "out", each=0), "images_per_file=0"),
        ([*arguments(trained, file, tmp_path / "out"), "mode=latency"], "draws in batches"),
        ([*arguments(trained, file, tmp_path / "out"), "nodes=2"], "say launch=slurm"),
    ):
        done = sample(*given)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert message in done.err
    with pytest.raises(UserError, match="all lines are empty"):
        (tmp_path / "empty.txt").write_text("\n \n")
        shards.read_lines(str(tmp_path / "empty.txt"))


@pytest.mark.slow
@pytest.mark.parametrize(("form", "name"), [("onnx", "model.onnx"), ("torch_export", "model.pt2")])
def test_a_program_draws_into_files(sample, command, trained, tmp_path, form, name):
    pytest.importorskip("onnxruntime")
    done = command(f"checkpoint={trained}", f"out={tmp_path / 'export'}", f"formats={form}", main=export)
    assert done.code == 0, done.err
    file = captions_file(tmp_path, 20)
    for out, each in (("one", 7), ("again", 7)):
        assert sample(*arguments(tmp_path / "export" / name, file, tmp_path / out, each)).code == 0
    assert tars(tmp_path / "one") == tars(tmp_path / "again")
    assert json.loads((tmp_path / "one/sampling.json").read_text())["batch_size"] == 16
    with tarfile.open(tmp_path / "one/00001.tar") as tar:
        pixels = np.asarray(Image.open(tar.extractfile("000000009.png"))).astype(int)
    assert abs(pixels - np.asarray(load(trained)(CAPTIONS[9], 0).images[0])).max() <= 1
    refused = sample(*arguments(tmp_path / "export" / name, file, tmp_path / "two"), "compile=true")
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
    assert "is a program already" in refused.err
