"""What the framework is compared with: the same networks, batches and optimisers in a loop of nothing but PyTorch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from trainer.benchmark.fit import build, device, synchronize

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.batch import Batch, Condition

Timer = Callable[[str], AbstractContextManager[None]]  # around a phase, given its name


class Bare:
    """One step at a time of a bare loop, with networks and a loader of its own."""

    time_phases = False

    def __init__(self, cfg: DictConfig):
        import torch

        objective, data, config = build(cfg)
        self.device = device()
        objective.to(self.device, memory_format=torch.channels_last)
        self.autocast = config["trainer"]["precision"] == "bf16-mixed"
        make = LOOPS[type(objective).__name__]
        self.loop = make(objective, self.phase)
        self.batches, self.data = iter(data.train_dataloader()), data
        self.phase_seconds: dict[str, float] = {}

    @staticmethod
    def refuses(cfg: DictConfig) -> str | None:
        """Why there is no bare loop for this objective, None where there is one."""
        objective = cfg.objective
        kind = objective._target_.rpartition(".")[2]
        if kind not in LOOPS:
            return f"objective {kind} has no bare loop; {', '.join(LOOPS)} have one"
        if cfg.trainer.precision == "16-mixed":
            return "the bare loop knows no loss scale"
        others = ("r2", "gradient_penalty", "finite_difference", "warmup_kimg", "lecam", "consistency", "matcher")
        if objective.get("accumulate", 1) > 1 or any(objective.get(key) for key in others):
            return f"the bare loop knows no accumulate, {', '.join(others)}"
        if kind != "VAE" and not objective.loss._target_.endswith(".NonSaturating"):
            return "the bare loop knows the non-saturating loss alone"
        return None

    def step(self) -> None:
        self.loop(to(self.data.transfer_batch_to_device(next(self.batches), self.device, 0), self.device))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        import torch

        if self.time_phases:
            synchronize()
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            yield
        if self.time_phases:
            synchronize()
            self.phase_seconds[name] = time.perf_counter() - start


def bare_gan(objective: Any, phase: Timer) -> Callable[[Batch], None]:
    """Non-saturating GAN with lazy R1, matching and feature matching, as one would write it for a paper.

    Where images come in stages, as of AttnGAN, they are augmented alike and judged as one tensor.
    """
    import torch
    from torch.nn.functional import softplus

    from trainer.networks.attngan import packed, smaller, unpacked

    generator, discriminator = objective.generator, objective.discriminator
    make = objective.make_optimizer
    optimizer_g = make["generator"](generator.parameters())
    optimizer_d = make["discriminator"](discriminator.parameters())
    average = copy.deepcopy(generator)
    alter = objective.augment or (lambda images, _: images)
    draws = objective.augment.num_draws if objective.augment else 1
    reuse, count = objective.reuse_fakes, 0
    sizes = generator.sizes if hasattr(generator, "stages") else None
    draw_images = (lambda *inputs: packed(generator.stages(*inputs))) if sizes else generator
    caption_kl = getattr(objective, "caption_kl", 0.0)

    def augment(image: Tensor, draw: Tensor) -> Tensor:
        if not sizes:
            return alter(image, draw)
        return packed([alter(each, draw) for each in (smaller if image.dim() == 4 else unpacked)(image, sizes)])

    def mismatch(features: Any, logits: Tensor, other: Condition) -> Tensor:
        wrong = getattr(discriminator, "matched", discriminator.logits)(features, other)
        return softplus(wrong - (logits.flatten(1)[:, 0] if wrong.dim() < logits.dim() else logits))

    def step(batch: Batch) -> None:
        nonlocal count
        condition, size = batch.condition, len(batch)
        device = batch.position.device
        image = batch.image.float() / 127.5 - 1
        other = condition.rows(torch.arange(size, device=device) ^ 1)
        with phase("discriminator"):
            real = augment(image, torch.rand(size, draws, device=device))
            with torch.set_grad_enabled(reuse):
                made = draw_images(torch.randn(size, objective.latent_channels, device=device), condition)
            fake = augment(made.detach(), torch.rand(size, draws, device=device))
            lazy = bool(objective.r1) and count % objective.penalty_interval == 0
            real = real.detach().requires_grad_(lazy)
            features = discriminator.features(real)
            real_logits = discriminator.logits(features, condition)
            differs = mismatch(features, real_logits, other)
            loss = softplus(-real_logits) + softplus(discriminator(fake, condition))
            loss = loss.mean() + objective.matching * differs.mean()
            if lazy:
                (slope,) = torch.autograd.grad(real_logits.sum() * size / real_logits.numel(), real, create_graph=True)
                loss = loss + objective.penalty_interval * objective.r1 / 2 * slope.square().sum() / size
            optimizer_d.zero_grad()
            loss.backward()
            optimizer_d.step()
        with phase("generator"):
            discriminator.requires_grad_(False)
            if not reuse:
                made = draw_images(torch.randn(size, objective.latent_channels, device=device), condition)
            draw = torch.rand(size, draws, device=device)
            features = discriminator.features(augment(made, draw))
            fake_logits = discriminator.logits(features, condition)
            loss = softplus(-fake_logits).mean() + objective.matching * mismatch(features, fake_logits, other).mean()
            if objective.feature_matching:
                with torch.no_grad():
                    target = discriminator.features(augment(image, draw))
                pairs = zip(features, target, strict=True) if isinstance(features, list) else [(features, target)]
                apart = [(f - g).square().flatten(1).sum(1) / g.square().flatten(1).sum(1) for f, g in pairs]
                loss = loss + objective.feature_matching * torch.stack(apart).mean()
            if caption_kl:
                mean, log_variance = generator.augmentation(generator.text(condition))
                loss = loss + caption_kl * 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            optimizer_g.zero_grad()
            loss.backward()
            optimizer_g.step()
            discriminator.requires_grad_(True)
        lerp(average, generator)
        count += 1

    return step


def bare_vae(objective: Any, phase: Timer) -> Callable[[Batch], None]:
    """Gaussian VAE with clipping, as one would write it for a paper."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    network = objective.autoencoder
    optimizer = objective.make_optimizer["autoencoder"](network.parameters())
    average = copy.deepcopy(network)

    def step(batch: Batch) -> None:
        with phase("autoencoder"):
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


LOOPS = {"GAN": bare_gan, "AttnGAN": bare_gan, "VAE": bare_vae}


def lerp(average: torch.nn.Module, network: torch.nn.Module) -> None:
    import torch

    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.01)


def to(batch: Batch, device: torch.device) -> Batch:
    from trainer.batch import Batch

    parts: list[Tensor] = [batch.image, batch.caption, batch.position]
    image, caption, position = (part.to(device, non_blocking=True) for part in parts)
    return Batch(image, batch.condition.to(device, non_blocking=True).float(), caption, position)
