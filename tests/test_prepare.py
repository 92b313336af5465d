"""Data made ready before a run, by any number of processes."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from trainer.data.index import open_index
from trainer.data.webdataset import WebDataset
from trainer.prepare import main

COMMON = ["experiment=cgan", "data=webdataset", "data.source.path=data", "data.cache_dir=cache", "text=scratch"]
GIVEN = [*COMMON, "data.decoded=false", "data.resolution=16"]


def shards(folder, count=4, per_tar=25, size=16):
    folder.mkdir()
    for number in range(count):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for sample in range(per_tar):
                pixels = np.random.default_rng((number, sample)).integers(0, 256, (size, size, 3), np.uint8)
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "JPEG")
                data = content.getvalue()[: 99 if sample == 7 else None]
                for name, part in ((f"{sample}.jpg", data), (f"{sample}.txt", f"thing {number} {sample}".encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("processes", [1, 3])
def test_an_index_is_made_and_found_again(place, command, processes):
    result = command(*GIVEN, f"processes={processes}", main=main)
    assert result.code == 0, result.err
    assert f"by {processes} process" in result.out
    assert "86 to train on, 10 held out, 4 left out as corrupt" in result.out
    again = command(*GIVEN, main=main)
    assert "made        before" in again.out and len([*(place / "cache").glob("*-index-*[0-9a-f]")]) == 1
    assert len(open_index(WebDataset("data"), 16, "cache").images) == 96


def test_a_cache_is_made(place, command):
    result = command(*COMMON, "data.resolution=16", main=main)
    assert result.code == 0 and "-16px-" in result.out, result.err
    assert (next((place / "cache").glob("*-16px-*[0-9a-f]")) / "images.npy").is_file()


def test_no_experiment_is_needed(place, command):
    assert command(*GIVEN[1:], "processes=1", main=main).code == 0


def test_a_mistake_in_the_data_is_one_line(place, command):
    with tarfile.open("data/4.tar", "w") as tar:
        tar.add("data/0.tar", "alone.jpg")
    result = command(*GIVEN, "processes=2", main=main)
    assert result.code == 2, result.err
    *progress, mistake = result.err.splitlines()
    assert "1 image without a caption" in mistake
    assert all(line.startswith("indexing ") for line in progress), progress  # of a busy machine
    (place / "data/4.tar").unlink()
    assert command(*GIVEN, "processes=2", main=main).code == 0


@pytest.mark.slow
def test_killed_at_half_it_goes_on(place):
    for number in range(40):
        os.link("data/0.tar", f"data/more{number:02}.tar")
    line = [sys.executable, "-m", "trainer.prepare", *GIVEN, "processes=1"]
    first = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(done := [*(place / "cache").glob("*.parts/00*[0-9]")]) < 15 and first.poll() is None:
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert done and not [*(place / "cache").glob("*-index-*[0-9a-f]")], "the kill came too late"
    assert subprocess.run(line, capture_output=True).returncode == 0
    assert len(open_index(WebDataset("data"), 16, "cache").images) == 44 * 24


def test_what_is_unused_is_told_and_removed_on_request(place, command, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(place / "kept"))
    assert command(*GIVEN, "processes=1", main=main).code == 0
    assert command(*COMMON, "data.resolution=16", main=main).code == 0
    old = next((place / "cache").glob("*-16px-*[0-9a-f]"))
    (place / "cache" / "mine").mkdir()
    programs = [place / "kept" / name for name in ("onnxruntime/a.onnx", "aot/b.pt2", "onnxruntime/new.onnx")]
    for program in programs:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("compiled")
    for folder in (old, place / "cache" / "mine", *programs[:2]):
        os.utime(folder, (0, 0))
    told = command("data.cache_dir=cache", "unused_days=30", main=main)
    assert told.code == 0 and old.name in told.out and "3 of 5 unused for 30 days" in told.out and old.exists()
    removed = command("data.cache_dir=cache", "unused_days=30", "prune=true", main=main)
    assert "removed" in removed.out and not old.exists() and (place / "cache" / "mine").exists()
    assert [program.exists() for program in programs] == [False, False, True]
    assert len([*(place / "cache").glob("*-index-*[0-9a-f]")]) == 1
    refused = command("prune=true", main=main)
    assert (refused.code, "expected unused_days=30" in refused.err) == (2, True)


def test_an_opened_cache_counts_as_used(place, command):
    assert command(*GIVEN, "processes=1", main=main).code == 0
    folder = next((place / "cache").glob("*-index-*[0-9a-f]"))
    os.utime(folder, (0, 0))
    open_index(WebDataset("data"), 16, "cache")
    assert time.time() - folder.stat().st_mtime < 60


def test_a_job_script(place, command):
    given = ["launch=slurm", "launch.dry_run=true", "nodes=2", "gpus_per_node=0", "launch.tasks_per_node=8"]
    result = command(*GIVEN, *given, main=main)
    assert result.code == 0, result.err
    assert "--ntasks-per-node=8" in result.out and "-m trainer.prepare" in result.out and "requeue" in result.out
    assert "launch=" not in result.out.split("srun")[1]
