"""A run of days on machines that fail: failures, checkpoints and restarts, simulated and by formula."""

from __future__ import annotations

import math

import numpy as np


def young(write_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints, sqrt(2 write MTBF) (Young 1974)."""
    return math.sqrt(2 * write_s * mtbf_s)


def daly(work_s: float, interval_s: float, write_s: float, restart_s: float, mtbf_s: float) -> float:
    """Expected seconds of a run: M e^(R/M) (e^((t + w)/M) - 1) work/t (Daly 2006, equation 20).

    M mean time between failures, which are exponential; R restart, w write, t interval: after each t of work a write.
    """
    once = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + write_s) / mtbf_s)
    return once * work_s / interval_s


def lived(
    work_s: float, interval_s: float, write_s: float, restart_s: float, mtbf_s: float, runs: int = 64, seed: int = 0
) -> np.ndarray:
    """(runs,) seconds until so much work is done, each run with failures of its own; the same seed, the same failures.

    What was done since the last whole checkpoint is done again; a failure in a write or in a restart counts as any.
    """
    random = np.random.default_rng(seed)
    whole, rest = divmod(work_s, interval_s)
    pieces = [interval_s] * int(whole) + [rest] * (rest > 0)
    ends = np.zeros(runs)
    for run in range(runs):
        clock, left = 0.0, random.exponential(mtbf_s)  # left: until the next failure
        for piece in pieces:
            while left < piece + write_s:
                clock, left = clock + left, random.exponential(mtbf_s)
                while left < restart_s:
                    clock, left = clock + left, random.exponential(mtbf_s)
                clock, left = clock + restart_s, left - restart_s
            clock, left = clock + piece + write_s, left - piece - write_s
        ends[run] = clock
    return ends


def best_interval(work_s: float, write_s: float, restart_s: float, mtbf_s: float, seed: int = 0) -> tuple[float, float]:
    """The interval whose simulated runs end soonest, among multiples of Young's, and the seconds that they take."""
    guess = min(young(write_s, mtbf_s), work_s)
    candidates = sorted({min(work_s, guess * 2 ** (power / 2)) for power in range(-4, 5)})
    means = [float(lived(work_s, each, write_s, restart_s, mtbf_s, seed=seed).mean()) for each in candidates]
    place = int(np.argmin(means))
    return candidates[place], means[place]
