"""SIGINT, SIGTERM and SIGUSR1 end a run in order, whatever it is doing. Knows nothing but the standard library.

Before training there is nothing to save: the process leaves at once. Once training is under way a signal is only
noted, and `callbacks.stop` ends the run at the end of a batch, with everything saved. SIGUSR1 is what SLURM sends
shortly before the time limit (`sbatch --signal=USR1@120`): the job then goes back into the queue. SIGTERM does not put
it there: SLURM does so itself for what it preempts, and what `scancel` ends must stay ended.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from trainer.ranks import rank

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

received = 0  # number of the first signal since `arm` or `immediate`
_deferred = False


def arm() -> dict[int, Any]:
    """From now on signals end this process in order; returns the handlers that stood there before."""
    return {number: signal.signal(number, _handle) for number in STOPPING}


def restore(handlers: dict[int, Any]) -> None:
    """Puts back what `arm` returned, and forgets what was received."""
    global received
    received = 0
    for number, handler in handlers.items():
        signal.signal(number, handler)


def immediate() -> None:
    """A signal ends the process where it stands: there is nothing to save."""
    global received, _deferred
    received, _deferred = 0, False


def defer() -> None:
    """A signal is only noted in `received`: whoever trains looks there."""
    global _deferred
    _deferred = True


def _handle(number: int, frame: FrameType | None) -> None:
    global received
    again = received == number == signal.SIGINT  # SLURM delivers the others twice: through srun, and itself
    received = received or number
    if again:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt
    if not _deferred:
        if number == signal.SIGUSR1 and rank() == 0:
            requeue()
        raise SystemExit(128 + number)
    if rank() == 0:
        remark = "; once more to abort" if number == signal.SIGINT else ""
        os.write(2, f"{signal.Signals(number).name}: finishing the batch and saving{remark}\n".encode())


def requeue() -> None:
    """Puts the SLURM job that this process belongs to back into the queue, if it does belong to one."""
    import subprocess  # here: the handlers stand a little earlier

    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        refusal = " ".join(done.stderr.split()) if done.returncode else ""
    except OSError as error:
        refusal = f"scontrol: {error.strerror}"
    word = f"SLURM did not requeue job {job}: {refusal}" if refusal else f"job {job} waits in the queue again"
    print(word, file=sys.stderr, flush=True)
