"""One checkpoint on its way to the disk."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from trainer.errors import UserError


class Saving:
    """Writes a checkpoint, at once or by a thread, from a copy in main memory, while training goes on.

    All ranks make it and settle it together. best: the measurement it is the best by; None if it is not. final: whether
    no later one can make up for it.
    """

    def __init__(
        self, strategy: Any, content: dict[str, Any], path: Path, best: float | None, final: bool, asynchronous: bool
    ) -> None:
        self.strategy, self.content, self.path, self.best, self.final = strategy, content, path, best, final
        self._failure: str | None = None
        self._error: BaseException | None = None
        self._thread: Thread | None = None
        if not asynchronous:
            self.write()
            return
        self.content = apply_to_collection(content, Tensor, lambda each: each.detach().to("cpu", copy=True))
        self._thread = Thread(target=self.write, name=f"saving {path.name}", daemon=strategy.sharded_checkpoints)
        self._thread.start()  # a daemon, as others that are gone could keep it for ever

    def write(self) -> None:
        """May be called again, where the disk was full."""
        self._failure = self._error = None
        try:
            self.strategy.save_checkpoint(self.content, self.path)
        except UserError as error:
            self._failure = str(error)
        except BaseException as error:  # of a thread it would be lost
            self._error = error

    @property
    def done(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def failure(self) -> str | None:
        """Why it could not be written, when it is done or failed."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._failure
