"""Lines for work that keeps a user waiting, on stderr so that stdout stays clean for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

EVERY_SECONDS = 5.0
_told: set[Path] = set()
ticks = 0  # pieces of work that this process has done, of whatever kind: one that counts no further is stuck


def tick() -> None:
    global ticks
    ticks += 1


def say(line: str, end: str = "\n") -> None:
    """Print one line for the user."""
    print(line, end=end, file=sys.stderr, flush=True)


@contextmanager
def best_effort(file: Path) -> Iterator[None]:
    """Around the writing of what a run can do without: where that fails (a full disk), it is told once and no more."""
    try:
        yield
    except OSError as error:
        if file not in _told:
            _told.add(file)
            say(f"{file} cannot be written ({error.strerror or error}): training goes on without it")


@contextmanager
def best_effort_output() -> Iterator[None]:
    """The same for stdout and stderr, which may be files, too. A closed pipe stays an error: nobody reads any more."""
    with redirect_stdout(_Spared(sys.stdout)), redirect_stderr(_Spared(sys.stderr)):
        yield


class _Spared:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise


class Progress:
    """Call it with the number done: it speaks after 5 s, every 5 s and at the end; quick work stays silent.

    action and things make the sentence: "encoded 5 of 9 captions". total: 0 where nobody knows it.
    A terminal shows the newest line alone, a file all of them.
    """

    def __init__(self, action: str, things: str, total: int = 0):
        self.action, self.things, self.total = action, things, total
        self.began = self.spoke = time.monotonic()

    def __call__(self, done: int) -> None:
        tick()
        now = time.monotonic()
        finished = done == self.total and self.spoke > self.began
        if now - self.spoke < EVERY_SECONDS and not finished:
            return
        self.spoke = now
        rate = done / max(now - self.began, 1e-9)
        of = f" of {self.total:,}" if self.total else ""
        left = f", {(self.total - done) / rate:,.0f} s left" if rate and done < self.total else ""
        line = f"{self.action} {done:,}{of} {self.things}, {rate:,.0f}/s{left}"
        rewritten = sys.stderr.isatty() and done != self.total
        say(f"\033[K{line}" if sys.stderr.isatty() else line, end="\r" if rewritten else "\n")
