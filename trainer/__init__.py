"""Training and sampling of text-conditioned image models. `from trainer import load` for a trained one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.process import lazy

if TYPE_CHECKING:
    from trainer.sampling.pipeline import load

__all__ = ["load"]

lazy.install()  # whatever imports Lightning comes after this


def __getattr__(name: str) -> Any:
    if name == "load":  # lazily: the command line answers --help without torch
        from trainer.sampling.pipeline import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
