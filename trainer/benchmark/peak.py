"""What the device could do at best: the denominator of model FLOPs utilisation (MFU)."""

from __future__ import annotations

import time

import torch

from trainer.benchmark.cards import known

SECONDS = 0.5  # that the measurement on a CPU takes

def number_format(precision: str | int) -> str:
    """In what Lightning's `precision` multiplies matrices: 16 bits, tf32 (default of convolutions on CUDA) or fp32."""
    if str(precision).startswith(("bf16", "16", "transformer-engine")):
        return "16"
    return "tf32" if torch.cuda.is_available() and torch.backends.cudnn.allow_tf32 else "fp32"


def of_gpu(name: str, numbers: str) -> float | None:
    """Peak FLOP/s of the GPU of that name, None where it is not in the table."""
    card = known(name)
    return card.flops(numbers) if card else None


def of_cpu(dtype: torch.dtype, size: int = 1024) -> float:
    """FLOP/s of the fastest of several matrix products (size, size) on the threads that PyTorch has."""
    a, b = torch.randn(2, size, size).to(dtype)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak(precision: str | int) -> tuple[float | None, str]:
    """FLOP/s that a rank could reach, and where the figure is from."""
    numbers = number_format(precision)
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return of_gpu(name, numbers), f"data sheet of {name}, {numbers}"
    dtype = torch.bfloat16 if numbers == "16" else torch.float32
    return of_cpu(dtype), f"best matrix product on {torch.get_num_threads()} threads, {dtype}"
