"""Lightning without what it does not use: torchmetrics, which loads SciPy and transformers when it is imported."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any

_CLASSES = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}  # Lightning asks for these


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
            importlib.import_module("torchmetrics.utilities")  # before any part: it and `metric` import one another
        if name == "__path__":
            return self.__path__
        if name in _CLASSES:
            return getattr(importlib.import_module(_CLASSES[name]), name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """To be called before Lightning is imported; does nothing where torchmetrics is loaded already, or absent."""
    if "torchmetrics" in sys.modules or not (spec := importlib.util.find_spec("torchmetrics")):
        return
    package = importlib.util.module_from_spec(spec)
    del package.__path__
    package.__class__ = LazyTorchmetrics
    package.__version__ = version("torchmetrics")  # type: ignore[attr-defined]
    sys.modules["torchmetrics"] = package
