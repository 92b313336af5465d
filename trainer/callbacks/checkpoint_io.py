"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.io import TorchCheckpointIO

from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_files

OLD = ".old.tmp"  # behind the name of a folder whose successor is taking its place


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs to disk, renames.

    Lightning's own serialises into memory, writes to the system's temporary folder and moves from there: across file
    systems that is a copy, which a kill leaves half done. Raises UserError on a full or read-only disk; older files
    are untouched.
    group: of the ranks, in which `save_sharded` speaks; None for that of all else.
    """

    def __init__(self, group: Any = None) -> None:
        super().__init__()
        self.group = group

    def save_checkpoint(self, content: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(content, temporary, path)
            replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def save_sharded(self, content: dict[str, Any], path: Any) -> None:
        """A folder with a file from each rank: what that rank holds. Called by all ranks; all fail if one does."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        save = [uuid.uuid4().hex]
        dist.broadcast_object_list(save, group=self.group)
        content = {**content, "save": save[0]}  # by which parts are known to be of one
        file = temporary / checkpoint_files.rank_file(rank, num_ranks)
        try:
            agree(lambda: empty(temporary, path) if rank == 0 else None, self.group)
            agree(lambda: write(content, file, path), self.group)
            agree(lambda: replace(temporary, path) if rank == 0 else None, self.group)
        finally:
            if rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return checkpoint.read(path)


def write(content: dict[str, Any], file: Path, target: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        failed = error if isinstance(error, OSError) else error.__context__
        if not isinstance(failed, OSError) and "write" not in str(error).lower():
            raise
        raise unwritten(target, failed) from error


def unwritten(target: Path, failed: BaseException | None) -> UserError:
    cause = failed.strerror if isinstance(failed, OSError) else "the disk is full"
    return UserError(f"cannot write {target}: {cause}; free space or choose another run_dir, then resume")


def empty(folder: Path, target: Path) -> None:
    """An empty folder, whatever stood there."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritten(target, error) from error


def replace(temporary: Path, path: Path) -> None:
    """A file or folder under its final name, in place of what has it, and that on disk. A folder takes the place of
    another in two steps; `recover` ends what a kill leaves between them."""
    old = path.with_name(f".{path.name}{OLD}")
    try:
        if path.is_dir() or (path.exists() and temporary.is_dir()):  # a rename replaces a file by a file only
            os.replace(path, old)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        recover(path.parent)
        raise unwritten(path, error) from error
    remove(old)


def recover(folder: Path) -> None:
    """Gives what was about to be replaced its name again, where its successor never got it."""
    for old in folder.glob(f".*{OLD}"):
        path = old.with_name(old.name[1:].removesuffix(OLD))
        remove(old) if path.exists() else os.replace(old, path)


def remove(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems know no such thing of folders
        pass
    finally:
        os.close(handle)


def agree(work: Callable[[], None], group: Any = None) -> None:
    """Does the work on all ranks; an error of one is raised on all of them, where the others would wait for it."""
    said: list[str | None] = [None] * dist.get_world_size()
    mine, line = None, None
    try:
        work()
    except Exception as error:
        mine = error
        line = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    dist.all_gather_object(said, line, group=group)
    if mine is not None and not isinstance(mine, UserError):
        raise mine
    for rank, word in enumerate(said):
        if word is not None:
            raise UserError(f"rank {rank}: {word}")
