"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.io import TorchCheckpointIO

from trainer import checkpoint
from trainer.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs to disk, renames.

    Lightning's own serialises into memory, writes to the system's temporary folder and moves from there: across file
    systems that is a copy, which a kill leaves half done. Raises UserError on a full or read-only disk; older files
    are untouched.
    """

    def save_checkpoint(self, content: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(content, temporary, path)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def save_sharded(self, content: dict[str, Any], path: Any) -> None:
        """A folder with a file from each rank: what that rank holds. Called by all ranks; all fail if one does."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        try:
            if rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            dist.barrier()
            agree(lambda: write(content, temporary / checkpoint.rank_file(rank, num_ranks), path))
            if rank == 0:
                shutil.rmtree(path, ignore_errors=True)
                os.replace(temporary, path)
            dist.barrier()
        finally:
            if rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return checkpoint.read(path)


def write(content: dict[str, Any], file: Path, target: Path) -> None:
    try:
        with open(file, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
        failed = error if isinstance(error, OSError) else error.__context__
        if not isinstance(failed, OSError) and "write" not in str(error).lower():
            raise
        cause = failed.strerror if isinstance(failed, OSError) else "the disk is full"
        raise UserError(
            f"cannot write {target}: {cause}; free space or choose another run_dir, then resume"
        ) from error


def agree(work: Callable[[], None]) -> None:
    """Does the work on all ranks; a UserError of one is raised on all of them, where the others would wait for it."""
    said: list[str | None] = [None] * dist.get_world_size()
    mine = None
    try:
        work()
    except UserError as error:
        mine = str(error)
    dist.all_gather_object(said, mine)
    for rank, line in enumerate(said):
        if line is not None:
            raise UserError(f"rank {rank}: {line}")
