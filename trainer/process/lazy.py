"""Lightning without what it does not use, of which each costs a second or two when it is imported.

torchmetrics loads SciPy, transformers and matplotlib. torch._dynamo, the front of `torch.compile`, loads SymPy;
Lightning asks it for one class, and optimizers ask it, at each step, not to trace them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any

_CLASSES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}  # Lightning asks for these
_PLOT = "torchmetrics.utilities.plot"
_DYNAMO = "torch._dynamo"


def install() -> None:
    """To be called before Lightning is imported; does nothing for what is loaded already, or absent."""
    if "torchmetrics" not in sys.modules and (spec := importlib.util.find_spec("torchmetrics")):
        package = importlib.util.module_from_spec(spec)
        del package.__path__
        package.__class__ = LazyTorchmetrics
        package.__version__ = version("torchmetrics")  # type: ignore[attr-defined]
        sys.modules["torchmetrics"] = package
    if _DYNAMO not in sys.modules:
        sys.modules[_DYNAMO] = dynamo = LazyDynamo(_DYNAMO)
        sys.meta_path.insert(0, Parts(dynamo))


class LazyTorchmetrics(ModuleType):
    """The package torchmetrics, of which two classes are loaded alone; whatever else is asked for loads all of it."""

    def __getattr__(self, name: str) -> Any:
        if name == "_logger":
            return logging.getLogger("torchmetrics")
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        assert self.__spec__ and self.__spec__.loader
        if "__path__" not in vars(self):
            self.__path__ = self.__spec__.submodule_search_locations or []
            with without_plots():
                importlib.import_module("torchmetrics.utilities")  # before any part: it and `metric` import one another
        if name == "__path__":
            return self.__path__
        if name in _CLASSES:
            with without_plots():
                return getattr(importlib.import_module(_CLASSES[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


@contextmanager
def without_plots() -> Iterator[None]:
    """What is imported within it loads matplotlib when it draws, and not before."""
    if _PLOT in sys.modules:
        yield
        return
    sys.modules[_PLOT] = LazyPlot(_PLOT)
    try:
        yield
    finally:
        del sys.modules[_PLOT]


class LazyPlot(ModuleType):
    """Functions that load the module when they are called; for types `object`, as where matplotlib is absent."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("_TYPE"):
            return object
        return lambda *args, **kwargs: getattr(importlib.import_module(_PLOT), name)(*args, **kwargs)


class _ByName(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return type(instance).__name__ == cls.__name__


class OptimizedModule(metaclass=_ByName):
    """Stands for what `torch.compile` makes of a module, where it is asked whether something is one."""


class LazyDynamo(ModuleType):
    """The package torch._dynamo as it is of use while nothing is compiled; whatever else is asked for loads it."""

    OptimizedModule = OptimizedModule

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__: list[str] = []  # so that an import of a part goes on to `Parts`
        self._asked: list[Any] = []
        self._loading = threading.RLock()

    def graph_break(self) -> None:
        """Nothing is traced that could be broken off."""

    def disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """The function itself. `torch._disable_dynamo` keeps the answer on it, and asks again once that is gone."""
        self._asked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(loaded(self), name)


def loaded(dynamo: ModuleType) -> ModuleType:
    """The same module, whole."""
    if not isinstance(dynamo, LazyDynamo):
        return dynamo
    with dynamo._loading:
        if isinstance(dynamo, LazyDynamo):
            for function in dynamo._asked:
                vars(function).pop("__dynamo_disable", None)
            import torch

            spec = PathFinder.find_spec(_DYNAMO, torch.__path__)
            assert spec and spec.loader
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Parts)]
            dynamo.__class__ = ModuleType  # type: ignore[assignment]
            dynamo.__spec__, dynamo.__loader__, dynamo.__file__ = spec, spec.loader, spec.origin
            dynamo.__path__ = spec.submodule_search_locations or []
            dynamo.__package__ = _DYNAMO
            spec.loader.exec_module(dynamo)
            torch._dynamo = dynamo
    return dynamo


class Parts(importlib.abc.MetaPathFinder):
    """Loads the package before a part of it, as the import system does for one that it has not seen yet."""

    def __init__(self, dynamo: ModuleType) -> None:
        self.dynamo = dynamo

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(f"{_DYNAMO}."):
            return None
        loaded(self.dynamo)
        spec = PathFinder.find_spec(name, self.dynamo.__path__)
        if spec and name in sys.modules:
            spec.loader = There(sys.modules[name])
        return spec


class There(importlib.abc.Loader):
    """Of a module that was loaded with its package."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        pass
