"""Checkpoint files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from trainer.errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs to disk, renames.

    Lightning's own serialises into memory, writes to the system's temporary folder and moves from there: across file
    systems that is a copy, which a kill leaves half done. Raises UserError on a full or read-only disk; older files
    are untouched.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into a RuntimeError
            failed = error if isinstance(error, OSError) else error.__context__
            if not isinstance(failed, OSError) and "write" not in str(error).lower():
                raise
            cause = failed.strerror if isinstance(failed, OSError) else "the disk is full"
            raise UserError(
                f"cannot write {path}: {cause}; free space or choose another run_dir, then resume"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
