"""W&B without the code of its Launch jobs and what that loads, of which each run is asked for staged inputs alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_STAGED = "wandb.sdk.launch.inputs.internal"


class StagedLaunchInputs:
    """None: who has staged some has imported W&B's own module for it."""

    def apply(self, run: object) -> None:
        pass


@contextmanager
def none_staged() -> Iterator[None]:
    """Around `wandb.init`: a second less, most of it for classes that describe W&B's public API."""
    if _STAGED in sys.modules:
        yield
        return
    module = ModuleType(_STAGED)
    vars(module)["StagedLaunchInputs"] = StagedLaunchInputs
    sys.modules[_STAGED] = module
    try:
        yield
    finally:
        del sys.modules[_STAGED]
