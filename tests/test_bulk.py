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

from trainer import bulk, load, many
from trainer.errors import UserError
from trainer.export import main as export
from trainer.sample import main

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
    assert (info.mtime, info.uid, info.uname) == (0, 0, "")


def test_a_line_may_be_its_own_seed(sample, trained, tmp_path):
    assert sample(*arguments(trained, captions_file(tmp_path, 6), tmp_path / "out"), "seeds=line").code == 0
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        assert json.loads(tar.extractfile("000000005.json").read()) == {"prompt": CAPTIONS[5], "seed": 5, "line": 5}


def crowd(sample, trained: Path, tmp_path: Path, count: int, each: int) -> None:
    """Two processes, one killed as soon as it writes; started again, all is as if one process had drawn it."""
    file, two = captions_file(tmp_path, count), tmp_path / "two"
    assert sample(*arguments(trained, file, tmp_path / "alone", each)).code == 0
    command = [sys.executable, "-m", "trainer.sample", *arguments(trained, file, two, each), "processes=2"]
    both = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (writing := [*(two / ".claims").glob("*-*")]):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(int(writing[0].name.rpartition("-")[2]), signal.SIGKILL)
    _, err = both.communicate()
    assert both.returncode == 2
    assert re.search(r"files are not there \(process [01] ended with -9\): the same command goes on", err), err
    assert len(tars(two)) >= len(tars(tmp_path / "alone")) - 1, "the other draws what is not claimed"
    assert sample(*arguments(trained, file, two, each)).code == 0
    assert tars(two) == tars(tmp_path / "alone")
    names = members(two)
    assert len(names) == len(set(names)) == 2 * (count - 1)
    assert not list((two / ".claims").glob("*-*"))


def test_two_processes_and_one_killed_leave_the_bytes_of_one(sample, trained, tmp_path):
    crowd(sample, trained, tmp_path, 200, 5)


@pytest.mark.slow
def test_two_processes_and_one_killed_leave_the_bytes_of_one_with_many_captions(sample, trained, tmp_path):
    crowd(sample, trained, tmp_path, 2000, 50)


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
        bulk.read_lines(str(tmp_path / "empty.txt"))


def test_processes_tell_their_rate_with_and_without_their_start(monkeypatch, capsys, tmp_path):
    stub = (
        "import os, time; rank = int(os.environ['RANK']); open(f'{rank:05}.tar', 'w'); time.sleep(0.5); "
        "print(f'host process {rank}: {20 - 5 * rank} images in {0.10 + rank / 10:.2f} s, 0.1 images/s; all')"
    )
    popen, instead = subprocess.Popen, [sys.executable, "-c", stub]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen(instead, cwd=tmp_path, **more))
    before = signal.getsignal(signal.SIGTERM)
    many.start(2, bulk.Plan([(i, "a") for i in range(35)], [0], 20), tmp_path)
    signal.signal(signal.SIGTERM, before)
    out = capsys.readouterr().out
    assert out.startswith("host process 0: 20 images")
    found = re.search(r"all 2 files; 35 images in \S+ s with 2 processes, (\S+) images/s; (\S+) images/s without", out)
    assert found, out
    assert 0 < float(found[1]) < 35 / 0.5
    assert float(found[2]) == 175


class Clocked:
    """A sampler that takes so many seconds an image at each batch size, and a minute more at its first batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]):
        self.seconds, self.now, self.seen, self.batch_size = seconds, 0.0, [], 1
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, captions: list[str], seeds: range) -> None:
        assert len(captions) == len(seeds) == self.batch_size
        self.now += 0 if self.batch_size in self.seen else 60
        self.now += self.batch_size * self.seconds[self.batch_size]
        self.seen.append(self.batch_size)


@pytest.mark.parametrize(
    ("seconds", "count", "best", "tried"),
    [
        ({16: 1.0, 32: 0.9, 64: 0.8, 128: 0.7}, 6000, 128, 4),
        ({16: 1.0, 32: 0.9, 64: 1.0, 128: 0.1}, 6000, 32, 3),
        ({16: 1.0, 32: 0.9, 64: 0.8, 128: 0.7}, 2000, 32, 2),
        ({16: 1.0}, 600, 16, 0),
    ],
)
def test_the_quickest_batch_is_found_in_a_tenth_of_the_time(monkeypatch, seconds, count, best, tried):
    clocked = Clocked(monkeypatch, seconds)
    assert many.fastest(clocked, ["a", "b", "c"], count) == best
    assert clocked.seen == [size for size in list(seconds)[:tried] for _ in range(2)]
    assert 10 * sum(clocked.seen) <= count


def test_a_folder_is_of_weights_and_of_how_they_are_run(command, trained, tmp_path):
    assert command(f"checkpoint={trained}", f"out={tmp_path / 'export'}", main=export).code == 0
    model, config = tmp_path / "export/model.safetensors", tmp_path / "export/config.json"
    before, saved = many.digest(model), json.loads(config.read_text())
    config.write_text(json.dumps(saved | {"programs": {"model.onnx": {}}}))
    assert many.digest(model) == before, "what lies beside has no part in it"
    saved["config"]["runtime"] = [{"_target_": "trainer.compression.runtime.half", "_partial_": True}]
    config.write_text(json.dumps(saved))
    assert many.digest(model) != before


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
