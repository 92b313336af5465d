"""Ranks that watch each other tell dead, frozen, stuck and busy apart."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def befall(folder: Path, case: str, count: int = 3) -> list[str]:
    """What each rank printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("watched.py"))]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(count), str(port), case],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    victim = int(case.partition(" ")[2] or -1) if case.startswith("frozen") else -1
    try:
        words = {rank: each.communicate(timeout=90)[0] for rank, each in enumerate(ranks) if rank != victim}
    finally:
        for each in ranks:
            each.kill()
    return [words.get(rank, "") for rank in range(count)]


@pytest.mark.parametrize(("blow", "victim"), [("dead", 0), ("dead", 2), ("frozen", 0), ("frozen", 1)])
def test_a_dead_or_frozen_rank_is_named_by_all_others(tmp_path, blow, victim):
    for rank, words in enumerate(befall(tmp_path, f"{blow} {victim}")):
        if rank != victim:
            named = rf"verdict: rank {victim} \(host n{victim}\) (has not answered for \d+ s|is gone)"
            assert re.search(named, words), words


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_in_one_long_call_is_left_alone(tmp_path, victim):
    words = befall(tmp_path, f"busy {victim}")
    assert all("finished" in each and "verdict" not in each for each in words), words
    watcher = 1 if victim == 0 else 0
    assert f"rank {victim} (host n{victim}) is busy: one call holds its interpreter" in words[watcher]


def test_stuck_ranks_are_named_with_where_they_are(tmp_path):
    for words in befall(tmp_path, "stuck 1"):
        found = re.search(r"verdict: nothing has moved for \d+ s: (.*); stacks are in stacks", words)
        assert found, words
        assert re.fullmatch(r"rank 1 \(host n1\) is in napping \(watched.py:\d+\), the others in main \(.*\)", found[1])
    assert "in napping" in (tmp_path / "stacks/rank00001.txt").read_text()
    assert "in main" in (tmp_path / "stacks/rank00002.txt").read_text()
