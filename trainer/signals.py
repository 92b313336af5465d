"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP end a run in order, whatever it is doing. Knows only the standard library.

Before training there is nothing to save: the process leaves at once. Once training is under way a signal is only
noted, and `callbacks.stop` ends the run at the end of a batch, with everything saved. A job goes back into the queue of
SLURM after SIGUSR1, which comes shortly before the time limit (`sbatch --signal=USR1@120`), and after SIGTERM where
SLURM preempts it; what `scancel` ends with the same SIGTERM stays ended.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

from trainer.ranks import rank

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

received = 0  # number of the first signal since `arm` or `immediate`
_deferred = False


def arm() -> dict[int, Any]:
    """From now on signals end this process in order; returns the handlers that stood there before."""
    numbers = [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores it
    return {number: signal.signal(number, _handle) for number in numbers}


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


def leaving() -> int:
    """The signal that ends this process where it stands, 0 if none: whatever is raised then is but its echo.

    A library that is interrupted in the middle of its own cleaning up may raise anything.
    """
    return 0 if _deferred else received


def _handle(number: int, frame: FrameType | None) -> None:
    global received
    again = received == number == signal.SIGINT  # SLURM delivers the others twice: through srun, and itself
    received = received or number
    if number == signal.SIGHUP:
        _leave_terminal()
    if again:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt
    if not _deferred:
        if rank() == 0:
            requeue(number)
        raise SystemExit(128 + number)
    if rank() == 0:
        remark = "; once more to abort" if number == signal.SIGINT else ""
        os.write(2, f"{signal.Signals(number).name}: finishing the batch and saving{remark}\n".encode())


def _leave_terminal() -> None:
    """The terminal is gone: what is still printed to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def requeue(number: int) -> None:
    """Puts the SLURM job that this process belongs to back into the queue, if the signal `number` means that."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not (number == signal.SIGUSR1 or (number == signal.SIGTERM and preempted(job))):
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    code, answer = scontrol("requeue", job)
    word = f"SLURM did not requeue job {job}: {answer}" if code else f"job {job} waits in the queue again"
    print(word, file=sys.stderr, flush=True)


def preempted(job: str) -> bool:
    """Whether SLURM gives the nodes to another job. It requeues what it has to kill, but not what ends in time."""
    times = dict(word.partition("=")[::2] for word in scontrol("show", "job", job)[1].split())
    since, start = times.get("PreemptTime", "None"), times.get("StartTime", "")
    return since != "None" and since >= start  # a job that came back may remember the time before


def scontrol(*words: str) -> tuple[int, str]:
    """Exit code and output of a command to SLURM."""
    import subprocess  # here: the handlers stand a little earlier

    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True)
    except OSError as error:
        return 1, f"scontrol: {error.strerror}"
    return done.returncode, " ".join((done.stderr or done.stdout).split())
