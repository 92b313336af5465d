"""What a user waits for: a new process that loads a model and draws. Also the program of that process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import uuid4

from trainer.errors import UserError

REPEATS = 3


@dataclass
class Fresh:
    """Seconds of importing and of loading, from the start of the process to its first image, and bytes at the peak.

    The first image is of a caption that was never encoded before, and the text encoder is loaded for it. The peak is of
    the process, on a GPU of what was allocated there; it comes with a batch of `batch` images.
    """

    import_s: float
    load_s: float
    first_image_s: float
    peak_bytes: int
    batch: int


def fresh(path: str | Path, caption: str, batch: int, device: str = "cpu", repeats: int = REPEATS) -> Fresh:
    """The medians of `repeats` new processes, on as many threads as this one has. UserError with the reason of one."""
    runs = [once(Path(path), caption, batch, device) for _ in range(repeats)]
    medians = {key: median(run[key] for run in runs) for key in runs[0]}
    return Fresh(medians["import_s"], medians["load_s"], medians["first_image_s"], int(medians["peak_bytes"]), batch)


def once(path: Path, caption: str, batch: int, device: str) -> dict[str, float]:
    import torch

    command = [sys.executable, "-m", __spec__.name, str(path), caption, str(batch), device, str(time.time())]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise UserError(f"{path} does not draw in a process of its own: {reason}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    path, caption, batch, device, began = sys.argv[1:]
    start = time.perf_counter()
    import torch

    from trainer.compression.comparison.drawn import by_sampler
    from trainer.sampling.pipeline import load
    from trainer.tasks.examples import examples

    imported = time.perf_counter()
    pipe = load(path, device)
    loaded = time.perf_counter()
    caption = f"{caption} {uuid4().hex[:6]}"  # in no cache
    sources = [examples(pipe.sampler.network, torch.arange(count)) for count in (1, int(batch))]
    pipe.sampler([caption], [0], sources[0]).cpu()
    first = time.time() - float(began)
    size = int(batch)
    condition = pipe.condition([caption] * size)._replace(source=sources[1]).to(device)
    by_sampler(pipe.objective)(pipe.latents(range(size)).to(device), condition)
    peak = torch.cuda.max_memory_allocated() if pipe.sampler.device.type == "cuda" else resident_peak()
    seconds = {"import_s": imported - start, "load_s": loaded - imported, "first_image_s": first}
    print(json.dumps({**seconds, "peak_bytes": peak}))


def resident_peak() -> int:
    """Most bytes of memory that this process had; on Linux from /proc, as ru_maxrss begins with the parent's there."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
