"""Ranks that meet, and the line about those that do not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from trainer.errors import UserError
from trainer.strategies import ddp
from trainer.strategies.rendezvous import meet, tell_of_loopback

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port(monkeypatch):
    for key in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(key, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    return number


def test_all_find_the_same_store(port):
    found = {}
    others = [threading.Thread(target=lambda r=r: found.update({r: meet("127.0.0.1", port, r, 3, 20)})) for r in (1, 2)]
    for other in others:
        other.start()
    time.sleep(0.3)  # rank 0 comes last
    store = meet("127.0.0.1", port, 0, 3, 20)
    for other in others:
        other.join()
    store.set("word", "x")
    assert found[1].get("word") == found[2].get("word") == b"x"


def test_who_is_missing_is_told(port, capsys):
    with pytest.raises(UserError, match=rf"rank 1, 2 of 3 did not come to 127.0.0.1:{port} within 1 s: start one"):
        meet("127.0.0.1", port, 0, 3, 1)
    assert f"waiting for rank 1, 2 of 3 at 127.0.0.1:{port}" in capsys.readouterr().err


def test_nobody_to_meet_is_told(port):
    with pytest.raises(UserError, match=rf"nobody at 127.0.0.1:{port} for \d s: rank 0 did not start"):
        meet("127.0.0.1", port, 1, 2, 1)


def test_a_port_in_use_is_told(port):
    with socket.create_server(("", port)), pytest.raises(UserError, match=rf"port {port} of .* cannot be opened"):
        meet("127.0.0.1", port, 0, 2, 1)


def test_a_child_that_ended_is_told_at_once(port):
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="rank 1 of 2 ended with code 3 while it started"):
        meet("127.0.0.1", port, 0, 2, 60, [child])


@pytest.fixture
def met(monkeypatch):
    """`met(hosts, address)` is a store in which ranks of these hosts are, on a machine whose name has this address."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)

    def store(hosts, address):
        def found(name, port):
            if not address:
                raise socket.gaierror(-2, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        made = HashStore()
        for rank, host in enumerate(hosts):
            made.set(f"here {rank}", host)
        return made

    return store


LOOPBACK = "resolves to 127.0.1.1 here, so that gloo listens where no other node reaches it: set GLOO_SOCKET_IFNAME= to"


@pytest.mark.parametrize(
    ("hosts", "address", "ifname", "told"),
    [
        (["n1", "n1", "n2", "n2"], "127.0.1.1", "", [0, 2]),
        (["n1", "n1", "n2", "n2"], "::1", "", [0, 2]),
        (["n1", "n1", "n2", "n2"], None, "", [0, 2]),
        (["n1", "n1", "n2", "n2"], "127.0.1.1", "eth0", []),
        (["n1", "n1", "n2", "n2"], "10.0.0.7", "", []),
        (["n1", "n1", "n1", "n1"], "127.0.1.1", "", []),
    ],
)
def test_a_host_that_no_other_reaches_is_told_once_a_node(met, monkeypatch, capsys, hosts, address, ifname, told):
    store = met(hosts, address)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", ifname)
    for rank, host in enumerate(hosts):
        tell_of_loopback(store, rank, len(hosts))
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (rank in told)
        assert all(f"host {host} resolves to {address or 'no address'} here" in line for line in lines)


@pytest.mark.parametrize(("backend", "lines"), [("gloo", 1), ("nccl", 0)])
def test_data_parallel_tells_it_before_it_connects(met, monkeypatch, capsys, backend, lines):
    strategy = ddp.DDP(process_group_backend=backend)
    strategy.cluster_environment = SimpleNamespace(
        main_address="n1", main_port=1, global_rank=lambda: 0, local_rank=lambda: 0
    )
    strategy._num_nodes = 2
    strategy.parallel_devices = [torch.device("cpu")]
    store = met(["n1", "n2"], "127.0.1.1")
    monkeypatch.setattr(ddp.DDP, "set_world_ranks", lambda self: None)
    monkeypatch.setattr(ddp, "meet", lambda *where: store)
    monkeypatch.setattr(ddp, "_init_dist_connection", lambda *given, **options: print("connects", file=sys.stderr))
    monkeypatch.setattr(ddp.DDP, "world_size", 2)
    strategy.setup_distributed()
    words = capsys.readouterr().err
    assert words.endswith("connects\n") and words.count(LOOPBACK) == lines


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_others(tmp_path, number):
    """As under torchrun, or srun, where the other rank does not start."""
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    clean |= {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"} | launched
    command = [sys.executable, "-m", "trainer", "experiment=cgan_shapes", "gpus_per_node=0", "logger.wandb=null"]
    process = subprocess.Popen(command, cwd=tmp_path, env=clean, stderr=subprocess.PIPE)
    assert process.stderr
    words = b""
    while b"waiting for rank 1 of 2" not in words:
        line = process.stderr.readline()
        assert line, words
        words += line
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 128 + number, words + rest
    assert b"Traceback" not in rest
