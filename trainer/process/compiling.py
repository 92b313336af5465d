"""What torch.compile needs of a machine."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from trainer.process import caches


def keep_code() -> None:
    """Has what is compiled kept with the other caches: PyTorch's own, in /tmp, is gone with the machine's start.

    In a folder for each kind of processor, as PyTorch finds a program by the network, its sizes and the GPU alone: what
    was written for AVX-512 would be built and run for AVX2 by the next node that shares the cache, and crash or draw
    half of each image. Before its compiler is imported, which sets the variable.
    """
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        return
    kind = f"{torch.backends.cpu.get_cpu_capability()}-{hashlib.sha256(processor().encode()).hexdigest()[:8]}"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(caches.root() / "inductor" / kind.replace(" ", "_"))


def processor() -> str:
    """What machine code is for: the name and instructions of this processor, and those of them that PyTorch uses."""
    used = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{used} {platform.machine()} {platform.processor()}"
    return " ".join([used, *sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})])


def has_cpp_compiler() -> bool:
    keep_code()
    from torch._inductor import cpp_builder, exc

    find: Callable[[], str] = cpp_builder.get_cpp_compiler
    try:
        return bool(find())
    except exc.InvalidCxxCompiler:
        return False
