"""The only training loop: an objective is a dict of phases, network name -> loss; a phase steps its network alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, SupportsFloat

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer import noise
from trainer.batch import Batch, Condition
from trainer.errors import UserError
from trainer.objectives.guidance import CaptionDropout
from trainer.objectives.sizes import Sizes
from trainer.objectives.span import Span
from trainer.runs import checkpoint
from trainer.runs.drawing import draws

Phase = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
Schedule = Callable[[float], float]


class Objective(CaptionDropout, Sizes, pl.LightningModule):
    """A subclass makes its networks, then sets `phases`: for each network that trains, in the order of the steps, a
    loss `Batch -> (scalar, logs)`. A loss never calls backward and never sees a strategy.

    optimizer: network name -> function of parameters (`_partial_: true`); one for each phase.
    schedule: images seen -> factor on every learning rate.
    clip: largest gradient norm of a network, None for no limit.
    accumulate: number of micro-batches a batch is split into; the step equals that of the whole batch.
    """

    automatic_optimization = False
    phases: dict[str, Phase]
    averaged: tuple[str, ...] = ()  # networks whose EMA weights are sampled from
    shared: tuple[str, ...] = ()  # parts beside the networks whose buffers are the mean over ranks behind each step
    latent_channels: int = 0  # 0 where nothing is drawn
    together: int = 1  # neighbours of a batch that a loss swaps or compares, which then must not part
    encoding: Any = None  # `data.encoded.Encoding`: what is learned in place of images, and so may be made of them once
    draws_with: str = ""  # path of the network that draws: (latent, condition) -> images

    def __init__(
        self,
        optimizer: dict[str, Callable[..., Optimizer]],
        schedule: Schedule,
        seed: int,
        clip: float | None = None,
        accumulate: int = 1,
    ):
        super().__init__()
        self.make_optimizer = optimizer
        schedule(0)  # what it refuses it refuses before anything is read
        self.schedule = schedule
        self.seed, self.clip, self.accumulate = seed, clip, accumulate
        self.images_seen, self.time_phases = 0, False
        self.config: dict[str, Any] = {}  # the resolved configuration, kept in every checkpoint
        self.logs: dict[str, Tensor] = {}
        self.ema: dict[str, Tensor] = {}
        self.frozen: list[nn.Parameter] = []  # by the phase that runs
        self.phase_seconds: dict[str, SupportsFloat] = {}
        self.until_backward = ExitStack()  # a loss may enter contexts that last until its backward is done

    def sample(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] from latents (N, latent_channels) and captions; UserError if it draws none."""
        if not self.draws_with:
            raise UserError(f"a run of {self.config.get('name')} draws no images: give one that does, as of cgan")
        return self.get_submodule(self.draws_with)(latent, condition)

    def begin(self) -> None:
        """What a new run, unlike one that goes on, takes from earlier ones; its configuration is known by then. Where a
        strategy splits weights, those of ranks but the first are still on the meta device."""
        if init := self.config.get("init"):
            checkpoint.start_from(self, init)

    # The loop ---------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        micro_batches = self.split(batch)
        self.logs = {}
        for (name, loss), optimizer in zip(self.phases.items(), self.trainer.optimizers, strict=True):
            with self.only(name), self.timed(name), self.at_size_of(batch):
                optimizer.zero_grad()
                for number, micro in enumerate(micro_batches, start=1):
                    with ExitStack() as self.until_backward:
                        value, logs = loss(micro)
                        self.strategy.backward(value / self.accumulate, optimizer, sync=number == self.accumulate)
                    self.record(logs)
                self.set_learning_rate(optimizer)
                logs = self.strategy.optimizer_step(optimizer, clip=self.clip)
                self.logs |= {f"{name}/{key}": value for key, value in logs.items()}
                torch.clear_autocast_cache()  # has bf16 copies of the weights that have just changed
        self.images_seen += len(batch) * self.trainer.world_size
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()  # global_step counts batches, however many optimisers step in one
        steps.increment_completed()

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """Within it, gradients reach the parameters of network `name` alone."""
        others = [self.network(other) for other in self.phases if other != name]
        self.frozen = [p for network in others for p in network.parameters() if p.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.frozen:
                parameter.requires_grad_(True)

    @contextmanager
    def ahead_of(self, name: str) -> Iterator[None]:
        """In another's phase, within it, what network `name` makes is kept differentiable, for its own phase."""
        mine = {id(parameter) for parameter in self.network(name).parameters()}
        thawed = [parameter for parameter in self.frozen if id(parameter) in mine]
        for parameter in thawed:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in thawed:
                parameter.requires_grad_(False)

    def split(self, batch: Batch) -> list[Batch]:
        size, rest = divmod(len(batch), self.accumulate)
        parts = self.accumulate * self.trainer.world_size
        if rest or (parts > 1 and size % self.together):
            whole = f"as many images, in groups of {self.together}" if self.together > 1 else "as many images"
            raise UserError(
                f"data.batch_size={len(batch) * self.trainer.world_size}, objective.accumulate={self.accumulate} on "
                f"{self.trainer.world_size} ranks: expected a multiple of {self.together * parts}, as each part "
                f"must have {whole}"
            )
        return [batch[i * size : (i + 1) * size] for i in range(self.accumulate)] if self.accumulate > 1 else [batch]

    def record(self, logs: dict[str, Tensor]) -> None:
        for key, value in logs.items():
            self.logs[key] = self.logs.get(key, 0) + value.detach() / self.accumulate

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time of a phase into `phase_seconds`, when `time_phases` asks."""
        if not self.time_phases:
            yield
            return
        time = Span(self.device)
        yield
        time.stop()
        self.phase_seconds[name] = time

    @property
    def strategy(self) -> Any:
        """What spreads the networks (`trainer.strategies.base.PerNetwork`); None outside of a training."""
        return self._trainer.strategy if self._trainer is not None else None

    # Parts of it ------------------------------------------------------------------------------------------------------

    def network(self, name: str) -> nn.Module:
        return self.get_submodule(name)

    def normal(self, stream: str, batch: Batch, count: int) -> Tensor:
        """(N, count) standard normals that hang on each sample's position: the same on any number of ranks."""
        return noise.normal(self.seed, stream, batch.position, count)

    def uniform(self, stream: str, batch: Batch, count: int) -> Tensor:
        """(N, count) uniform in [0, 1), as `normal`."""
        return noise.uniform(self.seed, stream, batch.position, count)

    def setup(self, stage: str) -> None:
        self.to(memory_format=torch.channels_last)  # as the kernels of convolutions want them

    def configure_optimizers(self) -> list[Optimizer]:
        if set(self.make_optimizer) != set(self.phases):
            raise UserError(
                f"objective.optimizer names {sorted(self.make_optimizer)}, but {sorted(self.phases)} train"
            )
        optimizers = [self.make_optimizer[name](self.network(name).parameters()) for name in self.phases]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers

    def set_learning_rate(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.schedule(self.images_seen)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within it, the averaged networks hold their EMA weights, whole on every rank. All ranks enter it together.

        `ema` has what this rank keeps of them, which changes places with the weights and back.
        """
        if not self.ema:
            yield
            return
        averages, self.ema = self.ema, {}  # a nested use finds nothing left to swap, instead of swapping back
        with ExitStack() as whole:
            self._swap(averages)
            try:
                for name in self.averaged if averages and self.strategy else ():
                    whole.enter_context(self.strategy.full_params(self.network(name)))
                yield
            finally:
                whole.close()
                self._swap(averages)
                self.ema = averages

    @torch.no_grad()
    def _swap(self, averages: dict[str, Tensor]) -> None:
        parameters = dict(self.named_parameters()) if averages else {}
        for key, average in averages.items():
            weight = self.held(parameters[key])
            live = weight.to(average.dtype, copy=True)
            weight.copy_(average)
            average.copy_(live)

    def held(self, parameter: nn.Parameter) -> Tensor:
        """What this rank keeps of a parameter: all of it, unless the strategy splits it."""
        return self.strategy.part(parameter).tensor if self.strategy else parameter.data

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ema: dict[str, Any] = dict(self.ema)
        if self.strategy:
            parts = {key: self.strategy.part(parameter) for key, parameter in self.named_parameters() if key in ema}
            ema = self.strategy.save_parts({key: replace(part, tensor=ema[key]) for key, part in parts.items()})
        checkpoint.update(ema=ema, config=self.config, images_seen=self.images_seen, draws=draws(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.images_seen = checkpoint["images_seen"]
        self.ema = checkpoint["ema"]  # whole; the EMA callback takes what this rank keeps
        self.tell_learning_rate(checkpoint)

    def tell_learning_rate(self, checkpoint: dict[str, Any]) -> None:
        """A line where another schedule than the checkpoint's goes on, as one does with another budget."""
        group = checkpoint["optimizer_states"][0]["param_groups"][0]
        batch = checkpoint["config"].get("data", {}).get("batch_size")
        if self.global_rank or not batch:
            return
        then, same = group["lr"] / group["initial_lr"], self.schedule(self.images_seen - batch)
        if abs(then - same) > 1e-6:
            print(
                f"the learning rate goes from {then:.3g} to {self.schedule(self.images_seen):.3g} of its first value: "
                f"objective.schedule now is that of kimg={self.config.get('kimg')}, it was that of "
                f"kimg={checkpoint['config'].get('kimg')}",
                flush=True,
            )
