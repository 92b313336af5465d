"""Lines on stderr for text work that keeps a user waiting."""

from __future__ import annotations

import sys
import time

EVERY_SECONDS = 5.0


def say(line: str) -> None:
    """Print one line for the user, on stderr so that stdout stays clean for results."""
    print(f"text: {line}", file=sys.stderr, flush=True)


class Progress:
    """Call it with the number done: it speaks after 5 s, every 5 s and at the end; quick work stays silent."""

    def __init__(self, action: str, total: int):
        self.action, self.total = action, total
        self.began = self.spoke = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        finished = done == self.total and self.spoke > self.began
        if now - self.spoke < EVERY_SECONDS and not finished:
            return
        self.spoke = now
        rate = done / (now - self.began)
        left = "" if done == self.total else f", {(self.total - done) / rate:,.0f} s left"
        say(f"{self.action} {done:,} of {self.total:,} captions, {rate:,.0f}/s{left}")
