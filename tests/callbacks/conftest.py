"""A small objective and data module with which the callbacks run inside the real Lightning Trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn

from trainer.batch import Batch, Condition
from trainer.strategies.single import Single

CAPTIONS = ["a red apple", "a blue car", "a green tree", "a dog, sitting"]


def encode(captions: Sequence[str]) -> Condition:
    pooled = torch.stack([torch.full((3,), float(len(caption))) for caption in captions])
    return Condition(pooled[:, None], torch.ones(len(captions), 1, dtype=torch.bool), pooled)


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        index = torch.arange(self.batch_size)
        while True:
            image = torch.zeros(self.batch_size, 3, 8, 8, dtype=torch.uint8)
            yield Batch(image, encode(["a"] * self.batch_size), index, index)


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.text = encode
        self.source, self.fingerprint = SimpleNamespace(), "random"
        images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
        self.train = SimpleNamespace(images=images, captions=CAPTIONS + CAPTIONS[:2])
        self.heldout = SimpleNamespace(images=images[:4], captions=CAPTIONS)
        self.skipped = Path(os.devnull)

    def trained_on(self, captions: tuple[str, ...]) -> set[str]:
        return set(captions).intersection(self.train.captions)

    def fixed_captions(self, count: int) -> list[str]:
        return CAPTIONS[:count]

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Stream(self.batch_size), batch_size=None)


class Objective(LightningModule):
    """Two players that only pull their weights towards one; `loss` may be replaced to script what is logged."""

    averaged = ("generator",)
    latent_channels = 2
    draws_with = "generator"
    seed = 0

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2 + 3, 3 * 8 * 8), nn.BatchNorm1d(3 * 8 * 8))
        self.discriminator = nn.Linear(2, 1)
        self.phases: dict[str, Any] = {"discriminator": None, "generator": None}
        self.config: dict[str, Any] = {"name": "tiny", "data": {"resolution": 8}}
        self.images_seen = 0
        self.logs: dict[str, Tensor] = {}
        self.ema: dict[str, Tensor] = {}
        self.time_phases = False
        self.phase_seconds: dict[str, float] = {}
        self.loss: Callable[[int], float] = lambda step: 1.0
        self.seen_timing: list[bool] = []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.get_submodule(name).parameters(), lr=0.01) for name in self.phases]

    def network(self, name: str) -> nn.Module:
        return self.get_submodule(name)

    def on_host(self, batch: Batch) -> Batch:
        return batch

    def training_step(self, batch: Batch) -> None:
        self.seen_timing.append(self.time_phases)
        step = self.trainer.global_step
        for name, optimizer in zip(self.phases, self.trainer.optimizers, strict=True):
            value = sum(((p - 1) ** 2).sum() for p in self.get_submodule(name).parameters())
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()  # global_step counts one a batch
        steps.increment_completed()
        self.generator[1](torch.randn(4, 192))  # moves the running statistics
        self.logs = {"discriminator/loss": torch.tensor(self.loss(step)), "generator/loss": torch.tensor(2.0)}
        self.phase_seconds = {"discriminator": 0.25, "generator": 0.5} if self.time_phases else {}
        self.images_seen += len(batch) * self.trainer.world_size

    def sample(self, noise: Tensor, condition: Condition) -> Tensor:
        state = self.generator.training
        self.generator.eval()
        image = self.generator(torch.cat([noise, condition.pooled], 1)).tanh().view(-1, 3, 8, 8)
        self.generator.train(state)
        return image

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        live = {key: value.clone() for key, value in self.state_dict().items()}
        self.load_state_dict(self.ema, strict=False)
        yield
        self.load_state_dict(live)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"ema": self.ema, "images_seen": self.images_seen, "config": self.config}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema, self.images_seen = checkpoint["ema"], checkpoint["images_seen"]


@pytest.fixture
def objective() -> Objective:
    return Objective()


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture
def make_trainer(tmp_path: Any) -> Callable[..., Trainer]:
    def make(callbacks: Sequence[Any], max_steps: int = 10, logger: Any = False) -> Trainer:
        return Trainer(
            default_root_dir=str(tmp_path),
            callbacks=list(callbacks),
            logger=logger,
            max_steps=max_steps,
            max_epochs=1,
            accelerator="cpu",
            strategy=Single("cpu"),
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )

    return make
