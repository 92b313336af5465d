"""One run a folder: the process that trains in it says so there, and a second one is told."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trainer.errors import UserError
from trainer.process.locks import acquire
from trainer.process.progress import say

FILE = ".lock"
BEAT_SECONDS = 10.0  # between two signs of life
SILENT_SECONDS = 35.0  # after which a process of another machine counts as dead
OLD_SECONDS = 600.0  # nobody waits for a sign that long ago, whatever the clocks say


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Within it this process, and no other on any machine, trains in `folder`. UserError, and nothing changed there,
    while another one that lives has it.

    A lock of a dead process never counts. On the same machine the process table tells, between machines a time stamp
    of every 10 s, which needs no locks of the file system; a SLURM job that was requeued follows itself at once.
    """
    path, token = folder / FILE, uuid.uuid4().hex
    with _open(path) as file:
        _refuse(file, path)
        _write(file, token)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, token, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with suppress(OSError):
            if _parse(path.read_text(encoding="utf-8")).get("token") == token:
                path.unlink()


def check(folder: Path) -> None:
    """UserError while a process that lives trains in `folder`."""
    with suppress(FileNotFoundError), open(folder / FILE, encoding="utf-8") as file:
        _refuse(file, folder / FILE)


def _open(path: Path) -> IO[str]:
    """The file, opened and locked where the file system has locks: two that start at once look one after the other."""
    while True:
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, closed by `exclusive`
        except OSError as error:
            raise UserError(f"run_dir={path.parent}: {error.strerror}; name a folder that can be written") from error
        acquire(file)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        file.close()  # its owner has removed it meanwhile


def _refuse(file: IO[str], path: Path) -> None:
    file.seek(0)
    holder = _parse(file.read())
    copied = holder.get("inode") != os.fstat(file.fileno()).st_ino  # with its folder
    if holder and not copied and _lives(holder, path):
        job = f" (job {holder['job']})" if holder["job"] else ""
        raise UserError(
            f"process {holder['pid']} on {holder['host']}{job} trains in {path.parent} since {holder['since']}: "
            "stop it first, or give another run_dir"
        )


def _lives(holder: dict[str, Any], path: Path) -> bool:
    if holder["machine"] == _machine():
        return holder["started"] == _started(holder["pid"])
    if holder["job"] and holder["job"] == _job() and holder["restarts"] != _restarts():
        return False  # SLURM has ended it before it started this one
    seen = path.stat().st_mtime_ns
    if time.time() - seen / 1e9 > OLD_SECONDS:
        return False
    say(f"waiting {SILENT_SECONDS:.0f} s to see whether process {holder['pid']} on {holder['host']} still trains here")
    deadline = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_SECONDS / 10))
        with suppress(OSError), open(path, "rb") as file:  # over NFS only an opened file has its true time
            if os.fstat(file.fileno()).st_mtime_ns != seen:
                return True
    return False


def _write(file: IO[str], token: str) -> None:
    mine = {
        "host": platform.node(),
        "pid": os.getpid(),
        "job": _job(),
        "restarts": _restarts(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "inode": os.fstat(file.fileno()).st_ino,
        "token": token,
    }
    with suppress(OSError):  # a full disk is told where something of worth is lost
        file.truncate(0)
        file.write(json.dumps(mine) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _parse(text: str) -> dict[str, Any]:
    """What `_write` wrote; {} where a full disk or a power loss has cut it off."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "token" in found else {}


def _beat(path: Path, token: str, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):
            found = _parse(path.read_text(encoding="utf-8")).get("token", token)
            if found != token and not done.is_set():  # two began at once without locks, or this one stood still
                say(f"another process trains in {path.parent} now: this one leaves it")
                os._exit(2)
            os.utime(path)


def _machine() -> str:
    """What a process number is of: a host since its start, and where there are containers, one of them."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _started(pid: int) -> str:
    """When a process began, in clock ticks, so that its number given anew is not taken for it; "" if it is gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except OSError:
        return ""
    else:
        return "" if state in "ZX" else rest[18]
    try:  # no /proc, as on macOS
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _restarts() -> str:
    return os.environ.get("SLURM_RESTART_COUNT", "0")
