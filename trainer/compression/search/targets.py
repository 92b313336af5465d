"""Steps of pruning, low rank and fine-tuning, one after another, until a target is met."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.compression.search.candidate import Candidate
from trainer.errors import UserError
from trainer.process.progress import say

KINDS = ("latency", "throughput", "size", "fd")
PAYS = 1.01  # a step that gains less than this is none


@dataclass(frozen=True)
class Goal:
    """kind: latency, throughput or size, to improve by `amount` times; fd, to rise by no more than that share."""

    kind: str
    amount: float

    @property
    def cost(self) -> str:
        """What is to fall: with a bound on the distance, the time an image."""
        return "throughput" if self.kind == "fd" else self.kind

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Of latency:4x, throughput:4x, size:8x or fd:+5%; UserError for anything else."""
        found = re.fullmatch(r"(latency|throughput|size):(\d+(?:\.\d+)?)x|(fd):\+(\d+(?:\.\d+)?)%", text.strip())
        if not found or (found[1] and float(found[2]) <= 1):
            raise UserError(f"target={text}: expected latency:4x, throughput:4x, size:8x (more than 1x) or fd:+5%")
        return cls(found[1], float(found[2])) if found[1] else cls(found[3], float(found[4]) / 100)


@dataclass(frozen=True)
class Point:
    """A generator that was tried. gains: kind -> times better than the start. fd: Fréchet distance, start: of that."""

    candidate: Candidate
    gains: Mapping[str, float]
    fd: float
    start: float

    @property
    def rise(self) -> float:
        """Share by which the distance is above the start's; below 0 where it is better."""
        return self.fd / self.start - 1

    def meets(self, goal: Goal) -> bool:
        return self.rise <= goal.amount if goal.kind == "fd" else self.gains[goal.kind] >= goal.amount


Change = Callable[[Candidate], Candidate]


def search(
    goal: Goal,
    start: Candidate,
    moves: Mapping[str, Change],
    finishes: Sequence[Change],
    measure: Callable[[Candidate], Point],
    rounds: int,
) -> tuple[Point, list[Point]]:
    """The best point for the goal, and all that were tried, the start first.

    In each round every move (a lossy step with its fine-tuning) is tried upon the best so far, and each of the results
    as every finish leaves it (as with int8 and without). Of latency, throughput and size: stops at the first round that
    has a point that meets the goal, and returns that with the smallest distance. Of fd: goes on while a point is within
    the bound, and returns the fastest of those. The way goes over the move with the most gain for its rise in distance.
    """
    cost = goal.cost
    points = [measure(start)]
    points += [measure(finish(start)) for finish in finishes]
    way, best_gain = start, 1.0
    for number in range(1, rounds + 1):
        met = [point for point in points if point.meets(goal)]
        if goal.kind != "fd" and met:
            break
        tried = []
        for name, move in moves.items():
            try:
                moved = move(way)
                found = [measure(finish(moved)) for finish in finishes]
            except UserError as error:  # what was found so far is worth more
                say(f"round {number}, {name}: {error}")
                continue
            points += found
            within = [point for point in found if goal.kind != "fd" or point.meets(goal)]
            if within:
                tried.append((max(within, key=lambda point: gain_per_distance(point, cost)), moved))
            say(f"round {number}, {name}: " + "; ".join(describe(point, cost) for point in found))
        allowed = [each for each in tried if each[0].gains[cost] > best_gain * PAYS]
        if not allowed:
            break
        point, way = max(allowed, key=lambda each: gain_per_distance(each[0], cost))
        best_gain = point.gains[cost]
    met = [point for point in points if point.meets(goal)]
    if goal.kind == "fd":
        return max(met, key=lambda point: point.gains[cost]), points
    if met:
        return min(met, key=lambda point: point.fd), points
    best = max(points, key=lambda point: point.gains[cost])
    say(f"target {goal.kind}:{goal.amount:g}x was not reached: {describe(best, cost)} is the most that was found")
    return best, points


def gain_per_distance(point: Point, cost: str) -> float:
    """Gain for the rise in distance that it costs; a hundredth of rise is free, as no measurement tells it apart."""
    return math.log(max(point.gains[cost], 1e-9)) / max(point.rise, 0.01)


def describe(point: Point, cost: str) -> str:
    return f"{point.candidate.name}: {cost} {point.gains[cost]:.2f}x, fd {point.fd:.1f} ({point.rise:+.1%})"
