"""A process that draws a picture and ends, without what takes time in PyTorch and in Python and is of no use to it."""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# how operators act on tensors without values: what traces and compiles asks for it, and it takes a quarter of the
# time that PyTorch's import does
SHAPES = "torch._meta_registrations"
TRACING = ("torch._decomp", "torch._prims", "torch._refs", "torch._inductor", "transformers")  # come before it is used
SELDOM = (100_000, 50, 1000)  # garbage is looked for: what is imported is none, and is looked through again and again


@contextmanager
def quickly() -> Iterator[None]:
    """Within it a process starts and ends sooner; for a command that loads, draws and leaves."""
    gc.set_threshold(*SELDOM)
    if "torch" not in sys.modules:
        sys.modules[SHAPES] = LazyShapes(SHAPES)
        sys.meta_path.insert(0, Tracing())
    try:
        yield
    finally:
        gc.freeze()  # else Python looks through all that is imported once more before it leaves


class LazyShapes(ModuleType):
    """The module `SHAPES` until something is traced; whatever is asked for loads it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(loaded(), name)


def loaded() -> ModuleType:
    """The module itself."""
    if isinstance(sys.modules.get(SHAPES), LazyShapes):
        forget()
        sys.modules["torch"]._meta_registrations = importlib.import_module(SHAPES)  # type: ignore[attr-defined]
    return sys.modules[SHAPES]


def forget() -> None:
    del sys.modules[SHAPES]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Tracing)]


class Tracing(importlib.abc.MetaPathFinder):
    """Loads what is left out before what traces; where PyTorch itself begins with that, nothing is left out."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in TRACING:
            return None
        torch = sys.modules.get("torch")
        if torch is None or getattr(torch.__spec__, "_initializing", False):
            forget()
            return None
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = Behind(spec.loader)
        return spec


class Behind(importlib.abc.Loader):
    """Loads a module behind what was left out, which may bring it along."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        loaded()
        if found := sys.modules.get(spec.name):
            return found
        spec.loader = self.own
        module: ModuleType | None = self.own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has been."""
