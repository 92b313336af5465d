"""What torch.compile needs of a machine."""

from __future__ import annotations

import os
from collections.abc import Callable

from trainer.process import caches


def keep_code() -> None:
    """Has what is compiled kept with the other caches: PyTorch's own, in /tmp, is gone with the machine's start.

    Before its compiler is imported, which sets the variable.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches.root() / "inductor"))


def has_cpp_compiler() -> bool:
    keep_code()
    from torch._inductor import cpp_builder, exc

    find: Callable[[], str] = cpp_builder.get_cpp_compiler
    try:
        return bool(find())
    except exc.InvalidCxxCompiler:
        return False
