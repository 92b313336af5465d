"""Translation without pairs: what goes to the other domain and back must come home (CycleGAN, Zhu et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch, Condition
from trainer.errors import UserError
from trainer.losses.adversarial import per_sample
from trainer.networks.translators import Both
from trainer.objectives.base import Objective
from trainer.objectives.gan import Adversarial
from trainer.objectives.history import Drawn, History
from trainer.objectives.restoration import require_sources

SIGMA = 0.01  # of the finite difference


class CycleGAN(Objective):
    """Sources s with captions c, images x with captions k; G draws images of sources, F sources of images, and minimise
        L_G(D(G(s, c), c)) + L_G(E(F(x, k), k)) + cycle (|F(G(s, c), c) - s| + |G(F(x, k), k) - x|)
        + identity (|G(x, k) - x| + |F(s, c) - s|)

    or half of it, the mean of both directions. generator: `there` G, `back` F, both with the task translation;
    discriminator: `there` D, `back` E. All of one side step together. loss: adversarial losses. augment: differentiable
    augmentation of what discriminators see, or None. history: images that each discriminator remembers, 0 for none; see
    `History`. r1: gamma of gamma/2 |grad D|^2 on real images, as |D(x) - D(x + sigma n)|^2 / sigma^2 at sigma = 0.01.
    """

    generator: Any
    discriminator: Any
    augment: Any
    averaged = ("generator",)
    draws_with = "generator.there"

    def __init__(
        self,
        generator: Both,
        discriminator: Both,
        loss: Adversarial,
        augment: nn.Module | None = None,
        cycle: float = 10.0,
        identity: float = 5.0,
        history: int = 50,
        r1: float = 0.0,
        **loop: Any,
    ):
        super().__init__(**loop)
        if min(cycle, identity, history, r1) < 0:
            raise UserError(
                f"objective.cycle={cycle}, identity={identity}, history={history}, r1={r1}: expected all from 0"
            )
        if loss.needs_real:
            raise UserError("objective.loss compares with real images, of which sources have none: take another")
        if generator.there.task.source_dropout or generator.back.task.source_dropout:
            raise UserError("task.source_dropout: a cycle comes home to its source, and has one; leave it out")
        self.generator, self.discriminator, self.loss, self.augment = generator, discriminator, loss, augment
        self.cycle, self.identity, self.r1 = cycle, identity, r1
        self.histories = {side: History(history, self.seed, side) for side in ("there", "back")} if history else {}
        self.latent_channels = generator.latent_channels
        self.phases = {"discriminator": self.discriminator_loss, "generator": self.generator_loss}

    def on_fit_start(self) -> None:
        data: Any = getattr(self._trainer, "datamodule", None)
        require_sources(data, paired=False)
        for history in self.histories.values() if data is not None else ():
            history.require_room(data.batch_size)

    def sides(self, batch: Batch) -> list[tuple[str, Tensor, Any, Batch]]:
        """Of each direction: its name, real pictures of where it leads, and what it starts from, as a condition too."""
        other: Any = batch.other
        there = other.condition._replace(source=other.image)
        back = batch.condition._replace(source=batch.image)
        return [("there", batch.image, there, batch), ("back", other.image, back, other)]

    def draw(self, side: str, condition: Condition, batch: Batch, stream: str) -> Tensor:
        """(N, 3, H, W) float32"""
        latent = self.normal(f"{stream}/{side}", batch, self.latent_channels)
        return self.network(f"generator.{side}")(latent, condition).float()

    def judge(self, side: str, image: Tensor, condition: Condition, batch: Batch, stream: str) -> Tensor:
        if self.augment is not None:
            image = self.augment(image, self.uniform(f"{stream}/{side}", batch, self.augment.num_draws))
        discriminator: Any = self.network(f"discriminator.{side}")
        return discriminator(image, condition._replace(source=None))

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses, reals, fakes, penalties = [], [], [], []
        for side, real, start, of_real in self.sides(batch):
            with torch.no_grad():
                drawn: Drawn = (self.draw(side, start, batch, "discriminator"), start._replace(source=None))
            if side in self.histories:
                gather = self.strategy.gather if self.strategy else lambda rows: rows
                drawn = self.histories[side].exchange(drawn, batch.position, self.images_seen, gather)
            real_logits = self.judge(side, real, of_real.condition, batch, "discriminator/real")
            fake_logits = self.judge(side, *drawn, batch, "discriminator/fake")
            losses.append(per_sample(self.loss.discriminator(real_logits, fake_logits)))
            reals.append(real_logits.mean())
            fakes.append(fake_logits.mean())
            if self.r1:
                near = real + SIGMA * self.normal(f"r1/{side}", batch, real[0].numel()).view_as(real)
                change = self.judge(side, near, of_real.condition, batch, "discriminator/real") - real_logits
                penalties.append(per_sample(change.float().square()) / SIGMA**2)
        loss = mean(losses)
        logs = {
            "discriminator/loss": loss.mean(),
            "discriminator/real_logits": mean(reals),
            "discriminator/fake_logits": mean(fakes),
        }
        if penalties:
            r1 = mean(penalties)
            logs["discriminator/r1"] = r1.mean()
            loss = loss + self.r1 / 2 * r1
        return loss.mean(), logs

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        adversarial, cycle, identity = [], [], []
        for side, real, start, of_real in self.sides(batch):
            home = "back" if side == "there" else "there"
            drawn = self.draw(side, start, batch, "generator")
            logits = self.judge(side, drawn, start, batch, "generator/fake")
            adversarial.append(per_sample(self.loss.generator(logits, None)))
            again = self.draw(home, start._replace(source=drawn), batch, "generator/cycle")
            cycle.append((again - start.source).abs().flatten(1).mean(1))
            if self.identity:
                same = self.draw(side, of_real.condition._replace(source=real), batch, "generator/identity")
                identity.append((same - real).abs().flatten(1).mean(1))
        loss = mean(adversarial) + self.cycle * mean(cycle)
        logs = {"generator/adversarial": mean(adversarial).mean(), "generator/cycle": mean(cycle).mean()}
        if identity:
            loss = loss + self.identity * mean(identity)
            logs["generator/identity"] = mean(identity).mean()
        return loss.mean(), logs | {"generator/loss": loss.mean()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["history"] = {side: history.state for side, history in self.histories.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        for side, state in checkpoint.get("history", {}).items():
            if side in self.histories:
                self.histories[side].state = state


def mean(sides: list[Tensor]) -> Tensor:
    return torch.stack(sides).mean(0)
