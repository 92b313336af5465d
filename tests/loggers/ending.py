"""A process that logs, and ends: python -m tests.loggers.ending FOLDER SIGNAL CODE STATE"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from trainer.loggers import service
from trainer.loggers.wandb import WandB


def cores(pid: int) -> list[int]:
    """The processes of W&B that the process `pid` has started, also one that is dead and not yet taken note of."""
    found = subprocess.run(["pgrep", "-P", str(pid), "wandb-core"], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def main(folder: str, name: str, code: str, state: str) -> None:
    service.ANSWER = service.FINISH = 3.0
    if state == "immortal":  # as one that waits for a disk

        def refuse(process: object) -> None:
            raise PermissionError

        subprocess.Popen.kill = refuse  # type: ignore[assignment]
    logger = WandB(folder)
    logger.log_metrics({"loss": 1.0}, step=1)
    if state == "finished":
        logger.finalize("success")
    [core] = cores(os.getpid()) or [0]
    if core:
        print(core, flush=True)
        os.kill(core, getattr(signal, name))
    for step in range(2, 5):
        logger.log_metrics({"loss": 1.0}, step=step)
    if state != "finished":
        logger.finalize("success")
    print("trained", flush=True)
    sys.exit(int(code))


if __name__ == "__main__":
    main(*sys.argv[1:])
