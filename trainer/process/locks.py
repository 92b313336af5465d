"""One process at a time, on file systems that have locks and on those that have none."""

from __future__ import annotations

import errno
import fcntl
from typing import IO, Any

_NONE_HERE = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}  # Lustre without flock, FUSE


def acquire(file: IO[Any], wait: bool = True) -> bool | None:
    """Takes the lock of an open file, until that is closed or its process dies, so that no lock is ever stale.

    True: taken. False: another process has it (without `wait`). None: this file system has no locks, and two processes
    may be at work; what they write must be whole at any moment.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NONE_HERE:
            return None
        raise
    return True
