"""The length of the weights' average, chosen after training (Karras et al. 2024, section 3 and appendix C).

A power-function average at time t has the profile p(tau) = (g + 1) tau^g / t^(g + 1) of the weights at tau <= t; its
length is the profile's deviation relative to t, s = sqrt(g + 1) / ((g + 2) sqrt(g + 3)). A run saves two of them some
times; the profile of any other is near a sum of theirs, and the same sum of their weights is near its weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.process.progress import say
from trainer.runs import checkpoint
from trainer.runs.checkpoint_files import damage, images_of, in_order

SNAPSHOTS = "snapshots"  # folder of a run
LENGTHS = (0.05, 0.10)  # of the averages that a run keeps
LONGEST = 0.28  # the plain mean over the run has 0.289
WORST = 0.1  # of a profile's norm, by which what the snapshots give may miss it


def exponent(length: float) -> float:
    """The g > 0 of a relative deviation s: s^2 (g + 2)^2 (g + 3) = g + 1."""
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(roots.real[np.abs(roots.imag) < 1e-9].max())


def decay(length: float, batch_images: int, images_seen: int) -> float:
    """How much of the average a batch leaves: ((t - batch) / t)^(g + 1), at t images with those of the batch."""
    return float((1 - batch_images / images_seen) ** (exponent(length) + 1))


def solve(known: list[tuple[float, float]], length: float, time: float) -> tuple[list[float], float]:
    """Factors of averages of (length, time) whose sum is nearest to that of `length` at `time`, in least squares.

    They add up to 1, so that weights that stand still stay, however few snapshots there are.
    Also by how much of its norm that sum's profile misses the wanted one's.
    """
    exponents = np.array([*(exponent(each) for each, _ in known), exponent(length)])
    times = np.array([*(each for _, each in known), time]) / time
    g, h = exponents[:, None], exponents[None]
    first = np.minimum(times[:, None], times[None])  # the integral over tau of the product of two profiles ends there
    product = (g + 1) * (h + 1) / (g + h + 1) * (first / times[:, None]) ** g * (first / times[None]) ** h
    product *= first / (times[:, None] * times[None])
    inner, mixed, norm = product[:-1, :-1], product[:-1, -1], product[-1, -1]
    one = np.ones((len(known), 1))
    system = np.block([[inner, one], [one.T, np.zeros((1, 1))]])  # the last unknown holds the sum at 1
    factors = np.linalg.lstsq(system, np.append(mixed, 1.0), rcond=1e-12)[0][:-1]
    missed = norm - 2 * factors @ mixed + factors @ inner @ factors
    return factors.tolist(), float(np.sqrt(max(0.0, missed) / norm))


def averaged(path: str | Path, length: Any) -> Path:
    """A checkpoint beside that of a run, whose average has this length: RUN/checkpoints/ema0.0700-kimg000055.000.ckpt.

    It is made once. UserError where the run has no snapshots, or they are too few for such a length.
    """
    try:
        length = float(length)
    except (TypeError, ValueError):
        length = 0.0
    if not 0 < length <= LONGEST:
        raise UserError(f"ema={length}: expected a length relative to the training, more than 0 to {LONGEST}")
    path = checkpoint.newest(path)
    snapshots = [each for each in in_order(path.parent.parent / SNAPSHOTS) if not damage(each)]
    seen = checkpoint.images_seen(path)
    snapshots = [each for each in snapshots if images_of(each) <= seen]
    if not snapshots:
        raise UserError(f"ema={length}: {path} has no snapshots; train with callbacks.posthoc.times=16")
    time = images_of(snapshots[-1])
    if time < seen:
        say(f"ema={length}: the average is that after {time / 1000:g} kimg, where the last snapshot was taken")
    target = path.with_name(f"ema{length:.4f}-{snapshots[-1].stem}.ckpt")
    if target.exists() and not damage(target):
        return target
    known = [(each, float(images_of(file))) for file in snapshots for each in LENGTHS]
    factors, missed = solve(known, length, time)
    if missed > WORST:
        raise UserError(
            f"ema={length}: {len(snapshots)} snapshots give such an average but for {missed:.0%} of its profile; "
            f"expected at most {WORST:.0%}: take a length nearer to {LENGTHS[0]} to {LENGTHS[1]}, or train with "
            "more callbacks.posthoc.times"
        )
    content = checkpoint.read(path)
    total: dict[str, Tensor] = {}
    for number, file in enumerate(snapshots):
        held: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["averages"]
        for name, average in held.items():
            place, _, key = name.partition("/")
            factor = factors[len(LENGTHS) * number + LENGTHS.index(float(place))]
            total[key] = total.get(key, torch.zeros((), dtype=torch.float64)) + factor * average.double()
    kept = {key: content[key] for key in content if key not in ("optimizer_states", "ema", "posthoc")}
    kept |= {"state_dict": dict(content["state_dict"]), "ema": {key: value.float() for key, value in total.items()}}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    torch.save(kept, temporary)
    os.replace(temporary, target)
    say(f"{target}: of {len(snapshots)} snapshots, which miss the profile by {missed:.2%}")
    return target
