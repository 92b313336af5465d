"""A rank that works, and that something befalls: python watched.py RANK COUNT PORT CASE"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from trainer.process import progress
from trainer.strategies.rendezvous import meet
from trainer.strategies.watch import Watch

LIMIT, PROGRESS = 6, 12


def napping() -> None:
    time.sleep(60)


def main() -> None:
    rank, count, port, case = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    store = meet("127.0.0.1", port, rank, count, 60)

    def ended(verdict: str) -> None:
        print(f"verdict: {verdict}", flush=True)
        time.sleep(2.5)  # the others read it in the store, which may be this process's
        os._exit(1)

    watch = Watch(store, rank, [f"n{i}" for i in range(count)], LIMIT, PROGRESS, Path("stacks"), ended)
    watch.start()
    print(f"pid {os.getpid()}", flush=True)
    blow, _, victim = case.partition(" ")
    end = time.monotonic() + 22
    while time.monotonic() < end:
        time.sleep(0.1)
        if blow != "stuck" or watch._beats < 3:
            progress.tick()
        if victim and rank == int(victim) and watch._beats == 3:
            if blow == "dead":
                os.kill(os.getpid(), signal.SIGKILL)
            elif blow == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif blow == "busy":
                ctypes.PyDLL(None).sleep(12)  # keeps the interpreter's lock
            elif blow == "stuck":
                napping()
    watch.finish()
    print("finished", flush=True)


if __name__ == "__main__":
    main()
