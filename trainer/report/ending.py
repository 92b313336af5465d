"""How a run ended, kept in its folder together with its report, whichever way it ended."""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.config import mistakes
from trainer.config.entry import conf_folders
from trainer.process import signals
from trainer.report.run import END


@contextmanager
def record_ending(folder: Path, stopped_by: Callable[[], int]) -> Iterator[None]:
    """Around a training: leaves RUN/end.json and RUN/report.html; an error goes on as it came.

    stopped_by: after a training without an error, the signal that ended it before its budget, or 0.
    """
    (folder / END).unlink(missing_ok=True)  # of an earlier start
    try:
        yield
    except BaseException as error:
        _write(folder, reason, error)
        raise
    _write(folder, by_signal, stopped_by())


def record_failure(folder: Path, why: str) -> None:
    """The same for a process that is about to leave without an exception."""
    _write(folder, lambda line: {"state": "failed", "reason": line}, why)


def reason(error: BaseException) -> dict[str, str]:
    """state, reason and, where the user needs it, traceback."""
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return by_signal(error.code - 128)
    if number := signals.leaving():
        return by_signal(number)
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return {"state": "stopped", "reason": "aborted by Ctrl-C, without a last checkpoint"}
    line = mistakes.explain(error, conf_folders())
    if line is not None:
        return {"state": "failed", "reason": line}
    text = mistakes.one_line(str(error))
    name = type(error).__name__
    whole = "".join(traceback.format_exception(error))
    return {"state": "failed", "reason": f"{name}: {text}" if text else name, "traceback": whole}


def by_signal(number: int) -> dict[str, str]:
    if not number:
        return {"state": "finished"}
    name = signal.Signals(number).name
    return {"state": "stopped", "reason": "Ctrl-C" if name == "SIGINT" else name}


def _write(folder: Path, end: Callable[[Any], dict[str, str]], of: Any) -> None:
    """Never raises: the run's own error matters more than its report."""
    try:
        content = {**end(of), "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        (folder / END).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        from trainer.report import single

        print(f"  {'report':<13}  {single.write(folder)}", flush=True)
    except Exception as error:
        print(f"no report: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
