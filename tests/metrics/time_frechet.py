"""Fréchet distance of two sets of 10,000 x 2,048 features, here and by torchmetrics, on the same machine and features.

OMP_NUM_THREADS=2 python tests/metrics/time_frechet.py [RUNS]

Both are given the same float32 features in batches of 1,000 and do all the rest: moments and distance. Memory is the
peak of the process above what it held before, which includes the features. torchmetrics takes half a minute a run.
"""

import gc
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

sys.path.insert(0, str(Path(__file__).parents[2]))
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments

NUM_IMAGES, WIDTH, BATCH = 10_000, 2_048, 1_000


class Identity(nn.Identity):
    num_features = WIDTH


def features(seed: int) -> Tensor:
    """Like those of a network behind a ReLU: never negative, correlated, of very different variances."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5
    scale = torch.logspace(0, -2, WIDTH)
    return ((torch.randn(NUM_IMAGES, WIDTH, generator=generator) * scale) @ mixing + 0.02 * seed).relu()


def ours(real: Tensor, fake: Tensor) -> float:
    pair = []
    for rows in (real, fake):
        sums = torch.zeros(WIDTH + 1, WIDTH + 1, dtype=torch.float64)
        for part in rows.split(BATCH):
            moments(part, sums)
        pair.append(mean_and_covariance(sums))
    return frechet_distance(*pair[0], *pair[1])


def theirs(real: Tensor, fake: Tensor) -> float:
    metric = FrechetInceptionDistance(Identity())
    for rows, is_real in ((real, True), (fake, False)):
        for part in rows.split(BATCH):
            metric.update(part, real=is_real)
    return metric.compute().item()


def memory(key: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measured(function, real: Tensor, fake: Tensor) -> tuple[float, float, float, float]:
    """(value, seconds, seconds of all threads on a core, MiB above the start)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    value = function(real, fake)
    return value, time.perf_counter() - start, time.process_time() - busy, memory("VmHWM") - before


def main() -> None:
    warnings.filterwarnings("ignore")
    real, fake = features(1), features(2)
    ours(real[:100], fake[:100])  # threads and library are up
    seconds: dict[str, list[float]] = {"trainer": [], "torchmetrics": []}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):  # in turns, so that both see the same machine
        for name, function in (("trainer", ours), ("torchmetrics", theirs)):
            value, elapsed, busy, mebibytes = measured(function, real, fake)
            seconds[name].append(elapsed)
            print(
                f"{name:12} {value:.6f}  {elapsed:6.2f} s, cores {busy:6.2f} s  peak +{mebibytes:.0f} MiB", flush=True
            )
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = middle["torchmetrics"] / middle["trainer"]
    print(f"median {middle['trainer']:.2f} s, torchmetrics {middle['torchmetrics']:.2f} s: {ratio:.1f} times as fast")


if __name__ == "__main__":
    main()
