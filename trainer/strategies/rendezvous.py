"""Where the ranks of a run meet: a store, with every rank there within a minute, or a line that names who is missing.

PyTorch's own rendezvous waits in C++, where neither Ctrl-C nor SIGTERM reaches Python, and does not say for whom.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore

from trainer.errors import UserError
from trainer.process.progress import say

TELL_SECONDS = 10.0  # before the first word about who is missing
POLL_SECONDS = 0.2
REMEDY = "start one process for each rank (srun, torchrun), and look into the logs of those"


def meet(address: str, port: int, rank: int, count: int, seconds: float, children: Sequence[Any] = ()) -> Store:
    """The store of a run in which all `count` ranks are; UserError if they are not there after so many seconds.

    children: processes of other ranks that this one has started (`subprocess.Popen`). One that ends now will not come.
    """
    deadline = time.monotonic() + seconds
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt {attempt}", reach(address, port, rank, deadline))
    store.set(f"here {rank}", platform.node())
    told = time.monotonic() + min(TELL_SECONDS, seconds / 2)
    while missing := [other for other in range(count) if not store.check([f"here {other}"])]:
        now = time.monotonic()
        ended = [child.poll() for child in children if child.poll() is not None]
        who = f"rank {', '.join(map(str, missing[:8]))}{' and more' if missing[8:] else ''} of {count}"
        if ended:
            raise UserError(f"{who} ended with code {ended[0]} while it started: its own words are above")
        if now > deadline:
            raise UserError(f"{who} did not come to {address}:{port} within {seconds:.0f} s: {REMEDY}")
        if now > told and rank == 0:
            told = deadline
            say(f"waiting for {who} at {address}:{port}")
        time.sleep(POLL_SECONDS)
    return store


def tell_of_loopback(store: Store, rank: int, count: int) -> None:
    """Says once a node that gloo will listen where other nodes cannot reach it: at the address of the host's own name.

    store: what `meet` returned.
    """
    hosts = [store.get(f"here {each}").decode() for each in range(count)]
    name = hosts[rank]
    if len({*hosts}) == 1 or hosts.index(name) != rank or os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    try:
        own = socket.getaddrinfo(name, None)[0][4][0]
    except OSError:
        own = "no address"
    if own == "no address" or ipaddress.ip_address(own).is_loopback:
        say(
            f"the name of host {name} resolves to {own} here, so that gloo listens where no other node reaches it: set "
            f"GLOO_SOCKET_IFNAME= to the network interface between the nodes, as eth0, or mend /etc/hosts"
        )


def reach(address: str, port: int, rank: int, deadline: float) -> TCPStore:
    """The store at an address: rank 0 opens it, unless a launcher has. UserError if it is not there by the deadline."""
    opens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    began = time.monotonic()
    while True:
        try:
            return TCPStore(address, port, is_master=opens, wait_for_workers=False, timeout=timedelta(seconds=2))
        except RuntimeError as error:  # torch's DistError
            if opens:
                raise UserError(
                    f"port {port} of {address} cannot be opened ({str(error).splitlines()[0][:120]}): another run has "
                    f"it, or the address is of another host; set MASTER_PORT= and MASTER_ADDR="
                ) from error
            if time.monotonic() > deadline:
                waited = time.monotonic() - began
                raise UserError(
                    f"nobody at {address}:{port} for {waited:.0f} s: rank 0 did not start, or is at another address; "
                    f"{REMEDY}"
                ) from error
        time.sleep(POLL_SECONDS)
