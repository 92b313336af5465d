"""What is measured and how: a sampler, the images it is compared with, numbers of both, and where the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import UserError
from trainer.metrics import distributed
from trainer.process.progress import Progress
from trainer.runs.results import Figure
from trainer.sampling.sampler import Sampler
from trainer.size import Size

VERSION = 2  # of how figures are measured: one more whenever the same settings begin to give another value
AT_ONCE = 256  # images in memory on their way past the measures


class References(Protocol):
    """Images that samples are compared with, as `trainer.data.split.Split` holds them.

    images: (M, H, W, 3) uint8, array-like. captions: M texts. attributes: M dicts, empty where nothing is known.
    """

    images: Any

    @property
    def captions(self) -> list[str]: ...
    @property
    def attributes(self) -> list[dict[str, Any]]: ...


@dataclass
class Study:
    """Sample i is drawn for the caption of reference `chosen[i]`, with seed `seed` + i.

    The captions of the references are spread evenly over the samples, and cycled where there are fewer of them; the
    references themselves are `num_references` of the split, evenly spread, or all where there are fewer. So the same
    captions and latents are drawn for every checkpoint, and on any number of ranks: rank r of R has numbers r, r + R...

    split: name of the references, "heldout" or "train". data: fingerprint of the data they are of.
    reconstructs: samples are what comes back of the references `chosen`, as of a run that draws nothing.
    without: "source" or "caption", which samples are drawn without.
    """

    sampler: Sampler
    references: References
    split: str
    num_images: int
    num_references: int
    data: str
    checkpoint: str
    kimg: float
    seed: int = 0
    reconstructs: bool = False
    without: str | None = None
    chosen: list[int] = field(init=False)

    def __post_init__(self) -> None:
        available = len(self.references.captions)
        if min(available, self.num_images, self.num_references) < 2:
            raise UserError(
                f"split={self.split} has {available} images, num_images={self.num_images}, "
                f"num_references={self.num_references}: expected at least 2 of each"
            )
        self.num_references = min(self.num_references, available)
        self.chosen = spread(available, self.num_images)

    @property
    def device(self) -> torch.device:
        return self.sampler.device

    @property
    def writes(self) -> bool:
        """Whether the run writes captions, and so draws no samples."""
        objective: Any = getattr(self.sampler, "objective", None)
        return hasattr(objective, "captioner") and not objective.draws_with

    @property
    def captions(self) -> list[str]:
        """Those of all samples."""
        captions = self.references.captions
        return [captions[index] for index in self.chosen]

    def samples(self) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers of this rank's samples and the images (n, 3, H, W) uint8, part by part."""
        captions = self.captions
        for numbers in shares(self.num_images, "measured", "reconstructions" if self.reconstructs else "samples"):
            texts = ["" if self.without == "caption" else captions[i] for i in numbers]
            if self.reconstructs:
                yield numbers, self.sampler.reconstruct(self.originals(numbers), texts)
            else:
                yield numbers, self.sampler(texts, [self.seed + i for i in numbers], self.sources(numbers))

    def originals(self, numbers: Sequence[int]) -> Tensor:
        """(n, 3, H, W) uint8: the references whose captions, and sources, these samples have."""
        return self.pixels(self.chosen[i] for i in numbers)

    def sources(self, numbers: Sequence[int]) -> Tensor | None:
        """What samples of an image task start from (n, C, h, w): their references, as the task takes them."""
        if self.sampler.task is None or self.without == "source":
            return None
        images = given(self.sampler.task, self.references)
        pixels = stacked(images, (self.chosen[i] for i in numbers)).to(self.device).float().div(127.5).sub(1)
        sources: Tensor = self.sampler.task(pixels, self.seed, torch.tensor([*numbers], device=self.device))
        return sources

    def pixels(self, indices: Iterable[int]) -> Tensor:
        """(n, 3, H, W) uint8 of references."""
        return stacked(self.references.images, indices)

    def reference_images(self) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers 0 to num_references - 1 of this rank and those images (n, 3, H, W) uint8, part by part."""
        index = self.reference_index
        for numbers in shares(self.num_references, "measured", f"{self.split} images"):
            yield numbers, self.pixels(index[i] for i in numbers)

    @property
    def reference_index(self) -> list[int]:
        return spread(len(self.references.captions), self.num_references)

    def figure(self, metric: str, value: float, better: str, std: float | None = None, **protocol: Any) -> Figure:
        """A figure of this study; protocol: what the measure adds to that."""
        shared = {
            "version": VERSION,
            "num_images": self.num_images,
            "split": self.split,
            "captions": f"of {self.split} images, evenly spread",
            "seed": self.seed,
            "resolution": Size.of(self.references.images.shape[1:3]).resolution,
            "data": self.data,
            **self.sampler.conditioning.settings(),
            **({"without": self.without} if self.without else {}),
        }
        return Figure(metric, float(value), better, self.checkpoint, self.kimg, shared | protocol, std)


class Measure(Protocol):
    """Sees every sample of its rank once; then all ranks together make the figures."""

    def prepare(self, study: Study) -> None: ...
    def update(self, numbers: Sequence[int], images: Tensor) -> None: ...
    def figures(self) -> list[Figure]: ...


def run(study: Study, measures: Sequence[Measure], stop: Callable[[], bool] = lambda: False) -> list[Figure]:
    """All figures of all measures, as `run_each` has them."""
    return [figure for found in run_each(study, measures, stop) for figure in found]


@contextmanager
def ieee() -> Iterator[None]:
    """Products of float32 with all their bits, and not TF32's ten, so that a figure is the same on any device."""
    backends: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [each.allow_tf32 for each in backends]
    try:
        for each in backends:
            each.allow_tf32 = False
        yield
    finally:
        for each, allowed in zip(backends, before, strict=True):
            each.allow_tf32 = allowed


@ieee()
def run_each(
    study: Study, measures: Sequence[Measure], stop: Callable[[], bool] = lambda: False
) -> list[list[Figure]]:
    """The figures of each measure; on several ranks all of them call this, and all get the same.

    stop: asked now and then whether to break off; where it is true on one rank, there are no figures on any.
    """
    for measure in measures:
        measure.prepare(study)
    stopped = stop()
    for numbers, images in () if stopped or study.writes else study.samples():
        for measure in measures:
            measure.update(numbers, images)
        if stopped := stop():
            break
    if any_rank(stopped, study.device):
        return []
    return [measure.figures() for measure in measures]


def given(task: Any, references: Any) -> Any:
    """What a task makes sources of, (M, H, W, 3) uint8: the references, or what the data have beside them."""
    if not task.translates:
        return references.images
    if references.sources is None:
        raise UserError("a translation starts from the data's own sources, and these have none: see data=emoji_pairs")
    return references.sources


def stacked(images: Any, indices: Iterable[int]) -> Tensor:
    """(n, 3, H, W) uint8 of some of them."""
    return torch.from_numpy(np.stack([images[i] for i in indices])).permute(0, 3, 1, 2)


def any_rank(here: bool, device: torch.device) -> bool:
    """Whether it is true on one of the ranks."""
    return bool(distributed.add(torch.tensor([float(here)], dtype=torch.float64), device))


def spread(available: int, count: int) -> list[int]:
    """`count` indices evenly over range(available); each one several times where count is larger."""
    return [i * available // count for i in range(count)]


def place() -> tuple[int, int]:
    """(rank, number of ranks)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shares(total: int, action: str, things: str) -> Iterator[list[int]]:
    """The numbers below `total` that fall to this rank, some at a time; rank 0 tells how far it is."""
    rank, num_ranks = place()
    own = list(range(rank, total, num_ranks))
    progress = Progress(action, things, len(own))
    for begin in range(0, len(own), AT_ONCE):
        yield own[begin : begin + AT_ONCE]
        if rank == 0:
            progress(min(begin + AT_ONCE, len(own)))
