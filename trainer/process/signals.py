"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 end a run in order, whatever it is doing. Knows nothing but the standard library.

Before training there is nothing to save: the process leaves at once. Once training is under way a signal is only
noted, and `callbacks.stop` ends the run at the end of a batch, with everything saved. After its last save a run that is
complete leaves at once again. A job goes back into the queue of SLURM after SIGUSR1, which comes shortly before the
time limit (`sbatch --signal=USR1@120`), and after SIGTERM where SLURM preempts it; what `scancel` ends with the same
SIGTERM stays ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

from trainer.process.ranks import leads

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
PATIENCE = 5.0  # seconds that the main thread may take to notice a signal
UNWINDING = 30.0  # seconds that it may take to leave

received = 0  # number of the first signal since `arm` or `immediate`
_begun = 0  # how often `immediate` has begun anew: an order of before does not hold any more
_deferred = False
_complete = False
_process = 0  # that has armed; what it forks answers to nobody
_aborted = False
_interrupts = 0
_handled = 0.0  # when the main thread last noticed a signal


def arm() -> dict[int, Any]:
    """From now on signals end this process in order; returns the handlers that stood there before."""
    global received, _interrupts, _process
    if signal.getsignal(signal.SIGTERM) is not _handle:  # else an order may have come already
        received = _interrupts = 0
    if _process != os.getpid():
        _process = os.getpid()
        _listen()
    heard = [n for n in STOPPING if not (n == signal.SIGHUP and signal.getsignal(n) == signal.SIG_IGN)]  # by nohup
    return {number: signal.signal(number, _handle) for number in heard}


def restore(handlers: dict[int, Any]) -> None:
    """Puts back what `arm` returned. Where that was of somebody else, what was received is forgotten."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if handlers and _handle not in handlers.values():
        immediate()


def begin() -> None:
    """As `immediate`, but an order that has come already still holds: a library may have swallowed the exit."""
    if number := leaving():
        raise SystemExit(128 + number)
    immediate()


def immediate() -> None:
    """A signal ends the process where it stands: there is nothing to save."""
    global received, _interrupts, _deferred, _complete, _aborted, _begun
    received, _interrupts, _deferred, _complete, _aborted = 0, 0, False, False, False
    _begun += 1


def defer() -> None:
    """A signal is only noted in `received`: whoever trains looks there."""
    global _deferred
    _deferred = True


def complete() -> None:
    """A signal ends the process where it stands: everything is saved, and nothing is left to come back for."""
    global _deferred, _complete
    _deferred, _complete = False, True


def leaving() -> int:
    """The signal that ends this process where it stands, 0 if none: whatever is raised then is but its echo.

    A library that is interrupted in the middle of its own cleaning up may raise anything.
    """
    return 0 if _deferred else received


def aborted() -> bool:
    """Whether a second Ctrl-C ended a training without a save."""
    return _aborted


def _handle(number: int, frame: FrameType | None) -> None:
    global received, _aborted, _handled
    if os.getpid() != _process:
        os._exit(128 + number)
    _handled = time.monotonic()
    first, again = not received, received == number == signal.SIGINT  # SLURM delivers the others twice
    received = received or number
    if number == signal.SIGHUP:
        _leave_terminal()
    if not _deferred:
        if first and leads() and not _complete:
            requeue(number)
        if first and _importing(frame):
            _leave(128 + number)
        if first or again:
            raise SystemExit(128 + number)
    elif again:
        _aborted = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt
    elif first and leads():
        remark = "; once more to abort" if number == signal.SIGINT else ""
        os.write(2, f"{signal.Signals(number).name}: finishing the batch and saving{remark}\n".encode())


def _importing(frame: FrameType | None) -> bool:
    """Whether `frame` stands in an import, whose own bookkeeping swallows an exit or makes another exception of it."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _leave(code: int) -> None:
    """Ends the process without unwinding; what has been printed is kept."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may have been interrupted in the middle of a line
            stream.flush()
    os._exit(code)


def _leave_terminal() -> None:
    """The terminal is gone: what is still printed to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _listen() -> None:
    """Python runs handlers in the main thread alone, which may wait in a library for ranks that never come."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_enforce, args=(reader,), daemon=True, name="signals").start()


def _enforce(reader: int) -> None:
    global _interrupts
    while word := os.read(reader, 1):
        number = word[0]
        _interrupts += number == signal.SIGINT
        if number in STOPPING and (not _deferred or (number == signal.SIGINT and _interrupts > 1)):
            threading.Thread(target=_end, args=(number, time.monotonic(), _begun), daemon=True).start()


def _end(number: int, came: float, begun: int) -> None:
    """Of a process whose main thread takes no notice of a signal, or does not get out."""
    time.sleep(PATIENCE)
    if _handled > came - PATIENCE:
        time.sleep(UNWINDING)
    elif leads() and not (_complete or _deferred) and begun == _begun:
        requeue(number)
    if begun == _begun:  # else whoever trained here has gone on to something else
        os._exit(128 + number)


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
    try:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True)
    except OSError as error:
        return 1, f"scontrol: {error.strerror}"
    return done.returncode, " ".join((done.stderr or done.stdout).split())
