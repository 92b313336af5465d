"""What a sampling into files does around the drawing: batch sizes, other processes, what the folder was begun with."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from trainer.export import main as export
from trainer.sampling import bulk, shards


def test_processes_tell_their_rate_with_and_without_their_start(monkeypatch, capsys, tmp_path):
    stub = (
        "import os, time; rank = int(os.environ['RANK']); open(f'{rank:05}.tar', 'w'); time.sleep(0.5); "
        "print(f'host process {rank}: {20 - 5 * rank} images in {0.10 + rank / 10:.2f} s, 0.1 images/s; all')"
    )
    popen, instead = subprocess.Popen, [sys.executable, "-c", stub]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen(instead, cwd=tmp_path, **more))
    before = signal.getsignal(signal.SIGTERM)
    bulk.start(2, shards.Plan([(i, "a") for i in range(35)], [0], 20), tmp_path)
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
    assert bulk.fastest(clocked, ["a", "b", "c"], count) == best
    assert clocked.seen == [size for size in list(seconds)[:tried] for _ in range(2)]
    assert 10 * sum(clocked.seen) <= count


def test_a_folder_is_of_weights_and_of_how_they_are_run(command, trained, tmp_path):
    assert command(f"checkpoint={trained}", f"out={tmp_path / 'export'}", main=export).code == 0
    model, config = tmp_path / "export/model.safetensors", tmp_path / "export/config.json"
    before, saved = bulk.digest(model), json.loads(config.read_text())
    config.write_text(json.dumps(saved | {"programs": {"model.onnx": {}}}))
    assert bulk.digest(model) == before, "what lies beside has no part in it"
    saved["config"]["runtime"] = [{"_target_": "trainer.sampling.runtime.half", "_partial_": True}]
    config.write_text(json.dumps(saved))
    assert bulk.digest(model) != before
