"""The process behind W&B, wandb-core: whoever speaks with it waits for a limited time, whether it is frozen or dead.

W&B sends through a socket, which takes no more once its buffer is full, and waits for answers without a limit: in the
middle of a training, in `finish`, and once more when Python ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

ANSWER = 20.0  # seconds that a word may take; a healthy process needs milliseconds, also where its disk is slow
FINISH = 30.0  # seconds for all that is left at the end; WANDB_FINISH_TIMEOUT sets another
UPLOAD = 1e6  # bytes of a checkpoint a second: what is uploaded has that much longer
LAST = 3.0  # seconds for each of the last things once the process is given up

_LOST = ("MailboxClosedError", "HandleAbandonedError", "AlreadyJoinedError")  # W&B's own for a process that is gone


class Absent:
    """Stands for a run of W&B where there is none: takes all that is logged."""

    url, id, dir, offline = "", "", "", False

    def __getattr__(self, name: str) -> Absent:
        return self

    def __call__(self, *args: Any, **options: Any) -> Absent:
        return self


def within(seconds: float, word: Callable[[], Any]) -> Any:
    """What `word` returns or raises; TimeoutError if it has not come back after so many seconds. It then goes on, in a
    thread that the end of Python does not wait for."""
    answer: Future[Any] = Future()

    def speak() -> None:
        try:
            answer.set_result(word())
        except Exception as error:
            answer.set_exception(error)
        except BaseException as error:  # W&B ends the process with the code of its own
            answer.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    threading.Thread(target=speak, daemon=True, name="W&B").start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"its process has not answered for {seconds:.0f} s") from None


def quiet() -> None:
    """Leaves out asyncio's own lines, one for each word in W&B's queue, about a process that is gone: one of ours tells
    it."""
    logging.getLogger("asyncio").addFilter(_is_of_others)


def _is_of_others(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("socket.send() raised")


def is_lost(error: Exception) -> bool:
    """Whether an error says that the process is frozen or dead."""
    return isinstance(error, (TimeoutError, ConnectionError)) or type(error).__name__ in _LOST


def give_up(run: Any = None) -> None:
    """Kills the process, unless W&B shares one that somebody else has started, and ends `run` without it.

    So nothing of W&B waits, or fails, when Python ends; and a next run begins with a process of its own.
    """
    import wandb
    from wandb.sdk import wandb_setup

    with suppress(Exception):
        process: Any = wandb_setup._singleton._connection._proc._process  # type: ignore  # there is no public way
        process.kill()
        process.wait(LAST)
    for last in (run.finish if run else None, wandb.teardown):
        with suppress(Exception):
            if last:
                within(LAST, last)
