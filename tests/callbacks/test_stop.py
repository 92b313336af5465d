"""A signal to one rank stops all of them at the end of a batch."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.callbacks.test_heartbeat import TINY, alive, pids, start, wait_for


@pytest.mark.slow
def test_a_signal_to_any_rank_stops_all(tmp_path):
    run, log = tmp_path / "run", tmp_path / "run.txt"
    process = start(run, "lightning", *TINY)
    try:
        wait_for(lambda: any(run.glob("checkpoints/*.ckpt")), log)
        os.kill(pids(run)[1], signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        wait_for(lambda: not any(alive(pid) for pid in pids(run).values()), log, 10)
    finally:
        for pid in (process.pid, *pids(run).values()):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    words = log.read_text()
    assert "Traceback" not in words
    saved = re.search(r"checkpoint +(\S+\.ckpt)", words)
    assert saved
    assert Path(saved[1]) == max(run.glob("checkpoints/*.ckpt"))
