"""How far the samples are from held-out images, while training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from trainer.backbones import effnet_lite0
from trainer.callbacks.log import record
from trainer.callbacks.schedule import due
from trainer.errors import UserError
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments, square_root
from trainer.progress import Progress, say
from trainer.sampling import Sampler

_AT_ONCE = 256  # images in memory


class Frechet(Callback):
    """`val/fd_effnet`: the Fréchet distance of EMA samples to held-out images, `times` in a run and so at its end.

    Samples follow the captions of held-out images, spread evenly over them and cycled if there are fewer; sample i has
    seed i, so every evaluation draws the same latents. Reference: all held-out images, evenly chosen ones beyond
    `max_references`; its moments are kept in the data cache, named after the pixels they are of. Features are those of
    EfficientNet-Lite0 for ImageNet at `feature_resolution` pixels. Compare values of the same data, num_images and
    feature_resolution only: the fewer images, the larger the distance, also between two sets of real ones. Not FID.

    All ranks share the work and get the same value. On one CPU core the features cost 1.5 ms an image, the rest 0.5 s.
    """

    def __init__(
        self, times: int = 10, num_images: int = 500, max_references: int = 5000, feature_resolution: int = 64
    ) -> None:
        if times < 0 or min(num_images, max_references) < 2 or feature_resolution < 32:
            raise UserError(
                f"callbacks.frechet: times={times}, num_images={num_images}, max_references={max_references}, "
                f"feature_resolution={feature_resolution}: expected at least 0, 2, 2 and 32"
            )
        self.times = times
        self.num_images = num_images
        self.max_references = max_references
        self.feature_resolution = feature_resolution
        self._reference: tuple[Tensor, Tensor, Tensor] | None = None  # mean, covariance and its root
        self._sampler: Sampler | None = None

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        """Before the first step, so that absent weights stop the run now and not at a tenth of it."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not self.times:
            return
        if len(data.heldout.captions) < 2:
            if trainer.is_global_zero:
                say("val/fd_effnet is off: it needs held-out images, see data.heldout")
            return
        self._network = effnet_lite0.load(self.feature_resolution).to(trainer.strategy.root_device)
        self._sampler = Sampler(objective, data.text)  # one for the run: it remembers the conditions of captions
        mean, covariance = mean_and_covariance(self._reference_moments(trainer, data))
        self._reference = mean, covariance, square_root(covariance)

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if self._reference is None or not due(trainer, self.times):
            return
        captions = trainer.datamodule.heldout.captions  # type: ignore[attr-defined]
        chosen = spread(len(captions), self.num_images)

        def draw(seeds: Sequence[int]) -> Tensor:
            assert self._sampler is not None
            return self._sampler([captions[chosen[seed]] for seed in seeds], seeds)

        with objective.ema_weights():  # all ranks together, each draws its share
            mean, covariance = mean_and_covariance(self._moments(trainer, draw, self.num_images, "samples"))
        reference_mean, reference_covariance, root = self._reference
        distance = frechet_distance(reference_mean, reference_covariance, mean, covariance, root)
        record(trainer, {"val/fd_effnet": distance})
        if trainer.is_global_zero:
            kimg = objective.images_seen / 1000
            print(f"kimg {kimg:.1f}  val/fd_effnet {distance:.2f}  {self.num_images} samples", flush=True)

    def _reference_moments(self, trainer: Trainer, data: Any) -> Tensor:
        images = data.heldout.images
        chosen = spread(len(images), min(len(images), self.max_references))
        file, saved = None, None
        if trainer.is_global_zero:
            file = Path(data.cache_dir).expanduser() / "frechet" / f"{self._fingerprint(images, chosen)}.npy"
            saved = read(file)
        saved = trainer.strategy.broadcast(saved)
        if saved is not None:
            return saved

        def load(numbers: Sequence[int]) -> Tensor:
            pixels = np.stack([images[chosen[number]] for number in numbers])
            return torch.from_numpy(pixels).permute(0, 3, 1, 2)

        computed = self._moments(trainer, load, len(chosen), "held-out images")
        if file is not None:
            write(file, computed)
        return computed

    def _fingerprint(self, images: Any, chosen: Sequence[int]) -> str:
        """Holds a hash of all that the moments depend on, the pixels included: never stale, whatever the source."""
        content = hashlib.sha256(f"{effnet_lite0.SHA256} {self.feature_resolution} {images[0].shape}".encode())
        for number in chosen:
            content.update(np.ascontiguousarray(images[number]).data)
        return f"effnet_lite0-{self.feature_resolution}px-{content.hexdigest()[:16]}"

    def _moments(self, trainer: Trainer, images: Any, total: int, things: str) -> Tensor:
        """Moments of images 0 to total - 1 over all ranks; images: numbers -> uint8 (N, 3, H, W)."""
        own = list(range(trainer.global_rank, total, trainer.world_size))
        progress = Progress("val/fd_effnet: measured", things, len(own))
        sums = torch.zeros(effnet_lite0.NUM_FEATURES + 1, effnet_lite0.NUM_FEATURES + 1, dtype=torch.float64)
        for begin in range(0, len(own), _AT_ONCE):
            part = own[begin : begin + _AT_ONCE]
            sums += moments(self._network.features(images(part)))
            if trainer.is_global_zero:
                progress(begin + len(part))
        if trainer.world_size > 1:
            device = trainer.strategy.root_device
            sums = trainer.strategy.reduce(sums.to(device), reduce_op="sum").cpu()
        return sums


def spread(available: int, count: int) -> list[int]:
    """`count` indices evenly over range(available); each one several times where count is larger."""
    return [i * available // count for i in range(count)]


def read(file: Path) -> Tensor | None:
    """Moments that `write` has left, None where there are none."""
    try:
        return torch.from_numpy(np.load(file))
    except (OSError, ValueError, EOFError):
        return None


def write(file: Path, moments: Tensor) -> None:
    """Whole or not at all; without it, as in a read-only cache, the next run computes them again."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            np.save(stream, moments.numpy())
        os.replace(temporary, file)
    except OSError as error:
        say(f"{file}: {error.strerror}; the reference of val/fd_effnet is not kept")
        with suppress(OSError):
            temporary.unlink()
