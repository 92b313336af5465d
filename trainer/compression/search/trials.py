"""What a search does with a network: steps with fine-tuning, what is done behind them, and measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from trainer.compression.comparison import latency
from trainer.compression.comparison.drawn import drawn
from trainer.compression.search.candidate import FINETUNE, Bench, Candidate
from trainer.compression.search.quality import Quality
from trainer.compression.search.targets import Goal, Point, search
from trainer.errors import UserError
from trainer.evaluation.fidelity import Fidelity

MOVES = ("prune", "low_rank")  # each takes a share of what is left
LOSSY = ("few_steps", "sparsify", "int8", "int8_dynamic", "int8_weights", "fp8", "half")  # tried with and without
FIRST = "average"  # before all others
SEED = 1 << 32  # the search looks at other latents than what is told of its answer


@dataclass
class Trials:
    """nodes: name of a pass -> its configuration. kimg: of fine-tuning behind each move, 0 for none.

    quality: measures a Fréchet distance, and the search that alone.
    """

    bench: Bench
    quality: Quality
    nodes: Mapping[str, Any]
    kimg: float

    def search(self, goal: Goal, start: Candidate, rounds: int) -> tuple[Point, list[Point]]:
        """The best point for the goal, and all that were tried."""
        fidelity = next((each for each in self.quality.measures if isinstance(each, Fidelity)), None)
        if fidelity is None or "fd" not in fidelity.metrics:
            raise UserError("metrics: a search looks at fd, leave it among them")
        measures = [Fidelity(fidelity.backbone, fidelity.cache_dir, ["fd"])]
        self.distance = replace(self.quality, measures=measures, study=partial(self.quality.study, seed=SEED))
        self.original = start.ready()
        self.stored = start.state()
        self.first = self.distance(self.original)[0].value
        if FIRST in self.nodes:
            start = self.bench.apply(start, FIRST, self.nodes[FIRST])
        moves = {name: partial(self.move, name) for name in self.nodes if name in MOVES}
        rest = [name for name in self.nodes if name not in (*MOVES, FINETUNE, FIRST)]
        exact = [name for name in rest if name not in LOSSY]
        finishes = [partial(self.finish, names) for names in ([exact, rest] if exact != rest else [rest])]
        return search(goal, start, moves, finishes, self.measure, rounds)

    def move(self, name: str, candidate: Candidate) -> Candidate:
        moved = self.bench.apply(candidate, name, self.nodes[name])
        return self.bench.apply(moved, FINETUNE, {"kimg": self.kimg}) if self.kimg else moved

    def finish(self, names: Sequence[str], candidate: Candidate) -> Candidate:
        return self.bench.steps(candidate, [(name, self.nodes[name]) for name in names])[-1]

    def measure(self, candidate: Candidate) -> Point:
        """Against the start, in turns with it."""
        torch._dynamo.reset()  # graphs of earlier candidates fill up what is kept of one class
        networks = {"start": self.original, "this": candidate.ready()}
        ways = {name: drawn(network) for name, network in networks.items()}
        speeds = latency.measure(ways, self.bench.batch, (1, 16, 64), rounds=7, seconds=0.2)
        stored = [sum(map(bytes_of, state.values())) for state in (self.stored, candidate.state())]
        gains = {
            "latency": speeds["this"].latency_versus(speeds["start"]),
            "throughput": speeds["this"].versus(speeds["start"]),
            "size": stored[0] / stored[1],
        }
        return Point(candidate, gains, self.distance(networks["this"])[0].value, self.first)


def bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
