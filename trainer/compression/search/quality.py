"""How good the images of a generator are: the measures of trainer.evaluate, for any network in a run's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trainer.evaluation.protocol import Measure, Study, run
from trainer.evaluation.teacher_similarity import Likeness
from trainer.exports.generator import TrainedGenerator
from trainer.runs.results import Figure
from trainer.sampling.sampler import Sampler


@dataclass
class Quality:
    """study: samplers -> Study, the same captions and seeds for all. device: where networks are measured."""

    study: Callable[..., Study]
    measures: Sequence[Measure]
    text: Any
    device: Any

    def __call__(self, network: nn.Module) -> list[Figure]:
        """Figures of a network (latent, condition) -> images; none where nothing is to be measured."""
        if not self.measures:
            return []
        return run(self.study(self.sampler(network)), self.measures)

    def likeness(self, network: nn.Module) -> list[Figure]:
        """How like its images are to the first stage's, alone: quick."""
        return replace(self, measures=[each for each in self.measures if isinstance(each, Likeness)])(network)

    def sampler(self, network: nn.Module) -> Sampler:
        return Sampler(TrainedGenerator(network).to(self.device), self.text)
