"""What the device could do at best: the denominator of model FLOPs utilisation (MFU)."""

from __future__ import annotations

import time

import torch

SECONDS = 0.5  # that the measurement on a CPU takes

# Peak dense TFLOP/s (no sparsity) of tensor cores: 16 bits with fp32 accumulation, TF32; and of plain fp32.
# From NVIDIA's data sheets and architecture whitepapers: H100, H200, L4, L40S, A10; Ampere GA100 and GA102, Ada AD102,
# Turing TU104 (T4), Volta GV100. The first name found in torch.cuda.get_device_name() counts.
PEAK_TFLOPS: dict[str, dict[str, float]] = {
    "H200": {"16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "GH200": {"16": 989.4, "tf32": 494.7, "fp32": 66.9},
    "H100 PCIe": {"16": 756.5, "tf32": 378.0, "fp32": 51.2},
    "H100": {"16": 989.4, "tf32": 494.7, "fp32": 66.9},  # SXM5
    "A100": {"16": 312.0, "tf32": 156.0, "fp32": 19.5},
    "L40S": {"16": 362.0, "tf32": 183.0, "fp32": 91.6},
    "L4": {"16": 121.0, "tf32": 60.0, "fp32": 30.3},
    "A10G": {"16": 70.0, "tf32": 35.0, "fp32": 35.0},
    "A10": {"16": 125.0, "tf32": 62.5, "fp32": 31.2},
    "RTX 4090": {"16": 165.2, "tf32": 82.6, "fp32": 82.6},
    "RTX 3090": {"16": 71.0, "tf32": 35.6, "fp32": 35.6},
    "T4": {"16": 65.0, "fp32": 8.1},  # fp16 only
    "V100-PCIE": {"16": 112.0, "fp32": 14.0},  # fp16 only
    "V100": {"16": 125.0, "fp32": 15.7},
}


def number_format(precision: str | int) -> str:
    """In what Lightning's `precision` multiplies matrices: 16 bits, tf32 (default of convolutions on CUDA) or fp32."""
    if str(precision).startswith(("bf16", "16", "transformer-engine")):
        return "16"
    return "tf32" if torch.cuda.is_available() and torch.backends.cudnn.allow_tf32 else "fp32"


def of_gpu(name: str, numbers: str) -> float | None:
    """Peak FLOP/s of the GPU of that name, None where it is not in the table."""
    row = next((row for known, row in PEAK_TFLOPS.items() if known in name), None)
    if row is None:
        return None
    tflops = row.get(numbers, row["fp32"])  # before TF32 existed it was fp32
    return 1e12 * tflops


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
