"""Where decoded data, text features and weights are kept between runs."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from trainer.process.progress import say

VARIABLE = "TRAINER_CACHE"


def root() -> Path:
    """$TRAINER_CACHE unless it is empty, else ~/.cache/trainer; a folder in /tmp for a user who has no home."""
    if given := os.environ.get(VARIABLE):
        return Path(os.path.expanduser(given)).absolute()
    home = os.path.expanduser("~")  # "~" again for a user without an entry in the password file
    return Path(home, ".cache", "trainer") if home != "~" else _homeless()


def used(path: Path) -> None:
    """Notes that it is: `trainer.prepare unused_days=30` tells what was not."""
    with suppress(OSError):  # of others
        os.utime(path)


@cache
def _homeless() -> Path:
    folder = Path(tempfile.gettempdir(), f"trainer-cache-{os.getuid()}")
    say(f"this user has no home: what is cached goes to {folder}; {VARIABLE}=FOLDER names a place that stays")
    return folder
