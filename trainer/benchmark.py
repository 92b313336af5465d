"""What the framework costs: python -m trainer.benchmark +experiment=cgan

The same networks, batches and optimisers in a bare PyTorch loop, written out below, and in ours, in turn.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from trainer.config import Training, entry
from trainer.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.batch import Batch

CALLBACKS = ("ema", "log", "throughput", "progress")  # grids, metrics and checkpoints come on top, as often as one asks
WARM_UP = 10  # steps


@dataclass
class Benchmark(Training):
    """Keys of a training run, and of the measurement."""

    steps: int = 50
    repeats: int = 5


def benchmark(cfg: DictConfig) -> None:
    """Prints images/s and step time of both loops, their ratio, and the share of time spent waiting for data."""
    import torch

    ours, bare, waits = [], [], []
    for number in range(cfg.repeats):
        own, other, wait = run(cfg)
        ours.append(own)
        bare.append(other)
        waits.append(wait)
        print(
            f"{number + 1}/{cfg.repeats}  ours {1000 * own:7.2f} ms  bare {1000 * other:7.2f} ms  "
            f"ratio {own / other:.3f}  data wait {wait:.2%}",
            flush=True,
        )
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    size = cfg.data.batch_size
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{cfg.name} on {device}, batch {size}, medians of {cfg.repeats} runs of {cfg.steps} steps: "
        f"ours {size / statistics.median(ours):.1f} images/s, bare {size / statistics.median(bare):.1f} images/s, "
        f"ratio of step times {statistics.median(ratios):.3f}, data wait {statistics.median(waits):.2%}"
    )


def build(cfg: DictConfig) -> tuple[Any, Any, dict[str, Any]]:
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    pl.seed_everything(cfg.seed, verbose=False)
    data = instantiate(config["data"], text=instantiate(config["text"]["encoder"]), _convert_="all")
    data.prepare()
    objective = instantiate(config["objective"], _convert_="all")
    objective.config = config
    return objective, data, config


def run(cfg: DictConfig) -> tuple[float, float, float]:
    """Median seconds a step of our loop and of the bare one, and the share of ours spent waiting for data.

    The loops take turns step by step, so that a machine whose speed drifts is as fast for the one as for the other.
    """
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    objective, data, config = build(cfg)
    bare_step = bare(cfg)
    ours, others, waits = [], [], []

    class Clock(pl.Callback):
        """The last callback: stamps each of our batches, then gives the bare loop its turn."""

        def on_train_start(self, *_: Any) -> None:
            self.done = time.perf_counter()

        def on_train_batch_start(self, *_: Any) -> None:
            waits.append(time.perf_counter() - self.done)  # from the last hook to here: the loop and the loader

        def on_train_batch_end(self, *_: Any) -> None:
            synchronize()
            now = time.perf_counter()
            ours.append(now - self.done)
            bare_step()
            self.done = time.perf_counter()
            others.append(self.done - now)

    callbacks = [instantiate(config["callbacks"][name]) for name in CALLBACKS if config["callbacks"].get(name)]
    options = {"max_steps": WARM_UP + cfg.steps, "logger": False, "callbacks": [*callbacks, Clock()]}
    trainer = instantiate(config["trainer"], strategy=instantiate(config["strategy"]), **options)
    trainer.fit(objective, datamodule=data)
    ours, others, waits = ours[WARM_UP:], others[WARM_UP:], waits[WARM_UP:]
    return statistics.median(ours), statistics.median(others), sum(waits) / sum(ours)


def bare(cfg: DictConfig) -> Callable[[], None]:
    """One step of a loop that has nothing but PyTorch in it, with networks and a loader of its own."""
    import torch

    objective, data, _ = build(cfg)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective.to(device, memory_format=torch.channels_last)
    steps = {"GAN": bare_gan, "VAE": bare_vae}
    kind = type(objective).__name__
    if kind not in steps:
        raise UserError(f"objective {kind} has no bare loop to compare with; those of {', '.join(steps)} have one")
    step, batches = steps[kind](objective), iter(data.train_dataloader())

    def turn() -> None:
        step(to(next(batches), device))
        synchronize()

    return turn


def bare_gan(objective: Any) -> Callable[[Batch], None]:
    """Non-saturating GAN with lazy R1 and matching, as one would write it for a paper."""
    import torch
    from torch.nn.functional import softplus

    generator, discriminator = objective.generator, objective.discriminator
    make = objective.make_optimizer
    optimizer_g = make["generator"](generator.parameters())
    optimizer_d = make["discriminator"](discriminator.parameters())
    average = copy.deepcopy(generator)
    augment = objective.augment or (lambda images, _: images)
    draws = objective.augment.num_draws if objective.augment else 1
    count = 0

    def step(batch: Batch) -> None:
        nonlocal count
        condition, size = batch.condition, len(batch)
        device = batch.position.device
        real = augment(batch.image.float() / 127.5 - 1, torch.rand(size, draws, device=device))
        other = condition[torch.arange(size, device=device) ^ 1]
        with torch.no_grad():
            fake = generator(torch.randn(size, objective.latent_channels, device=device), condition)
            fake = augment(fake, torch.rand(size, draws, device=device))
        lazy = bool(objective.r1) and count % objective.penalty_interval == 0
        real.requires_grad_(lazy)
        features = discriminator.features(real)
        real_logits, wrong = discriminator.logits(features, condition), discriminator.logits(features, other)
        loss = softplus(-real_logits) + softplus(discriminator(fake, condition))
        loss = loss + objective.matching * softplus(wrong - real_logits)
        if lazy:
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            loss = loss + objective.penalty_interval * objective.r1 / 2 * slope.square().flatten(1).sum(1)
        optimizer_d.zero_grad()
        loss.mean().backward()
        optimizer_d.step()

        discriminator.requires_grad_(False)
        fake = generator(torch.randn(size, objective.latent_channels, device=device), condition)
        features = discriminator.features(augment(fake, torch.rand(size, draws, device=device)))
        fake_logits, wrong = discriminator.logits(features, condition), discriminator.logits(features, other)
        loss = softplus(-fake_logits) + objective.matching * softplus(wrong - fake_logits)
        optimizer_g.zero_grad()
        loss.mean().backward()
        optimizer_g.step()
        discriminator.requires_grad_(True)
        lerp(average, generator)
        count += 1

    return step


def bare_vae(objective: Any) -> Callable[[Batch], None]:
    """Gaussian VAE with clipping, as one would write it for a paper."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    network = objective.autoencoder
    optimizer = objective.make_optimizer["autoencoder"](network.parameters())
    average = copy.deepcopy(network)

    def step(batch: Batch) -> None:
        image = batch.image.float() / 127.5 - 1
        noise = torch.randn(len(batch), objective.latent_channels, device=image.device)
        output, mean, log_variance = network(image, batch.condition, noise)
        rate = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss = objective.reconstruction(output, image) + objective.kl_weight * rate / image[0].numel()
        optimizer.zero_grad()
        loss.mean().backward()
        if objective.clip:
            clip_grad_norm_(network.parameters(), objective.clip)
        optimizer.step()
        lerp(average, network)

    return step


def lerp(average: torch.nn.Module, network: torch.nn.Module) -> None:
    import torch

    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.01)


def to(batch: Batch, device: torch.device) -> Batch:
    from trainer.batch import Batch

    parts: list[Tensor] = [batch.image, batch.caption, batch.position]
    image, caption, position = (part.to(device, non_blocking=True) for part in parts)
    return Batch(image, batch.condition.to(device), caption, position)


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    entry(benchmark, "benchmark", Benchmark)


if __name__ == "__main__":
    main()
