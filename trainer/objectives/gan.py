"""Text-conditioned GAN: a discriminator of real, generated and mismatched pairs, and a generator that answers."""

from __future__ import annotations

import math
from collections import deque
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.adversarial import per_sample
from trainer.losses.distillation import feature_distance
from trainer.losses.lecam import LeCam
from trainer.objectives.base import Objective
from trainer.objectives.guidance import DROPPED
from trainer.objectives.mismatch import mismatch
from trainer.objectives.penalties import differentiable_twice, penalties
from trainer.runs.trained import Matcher


class Adversarial(Protocol):
    """A pair of elementwise losses of logits (N, ...); see `trainer.losses.adversarial`."""

    needs_real: bool

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor: ...


class GAN(Objective):
    """Generator G(z, c) against discriminator D(x, c), whose logits are (N,) or (N, ...) of several heads or patches.

    loss: adversarial losses. augment: differentiable augmentation of all that the discriminator sees, or None.
    matching: weight of softplus(D(x, c') - D(x, c)) with another image's caption c', for real x in the discriminator's
    loss (matching-aware, Reed et al. 2016), for generated x in the generator's (a contrast as in Zhang et al. 2021).
    r1, r2: gamma of gamma/2 |grad D|^2 on real and on generated images (Mescheder et al. 2018), as the
    discriminator sees them: augmented, where there is an augmentation; as features, where it sees frozen ones.
    finite_difference: sigma > 0 takes |D(x) - D(x + sigma n)|^2 / sigma^2 instead of the double backward.
    gradient_penalty: weight of WGAN-GP (Gulrajani et al. 2017).
    penalty_interval: penalties every so many batches, scaled by it (lazy regularisation, Karras et al. 2020). Where one
    is exact, the discriminator runs in float32 whatever the precision.
    lecam: weight of `trainer.losses.lecam.LeCam`.
    consistency: weight of |D(x) - D(T(x))|^2 of real and of generated x (balanced consistency, Zhao et al. 2021); its T
    is `augment`, and all else then sees images as they are.
    feature_matching: weight of the distance between D's features of a generated image and of the real one of its
    caption, in the generator's loss (Salimans et al. 2016; a pair at a time as in Wang et al. 2018). Captions that
    several pictures share, as classes are, have none: all images of one would become the mean of its pictures.
    reuse_fakes: the generator's phase takes the images that the discriminator has just seen, augmented anew, not new
    ones: the generator runs once a step. They are kept with all that their gradient needs, of all micro-batches.
    matcher: run of objective=matching; matcher_weight times its DAMSM loss of generated images joins the generator's
    (AttnGAN, Xu et al. 2018). It is frozen, read when a training starts, and in no checkpoint.
    """

    averaged: tuple[str, ...] = ("generator",)
    draws_with = "generator"
    any_size = True
    generator: Any  # nn.Module says of its children only that they may be tensors
    discriminator: Any
    augment: Any

    def __init__(
        self,
        generator: Any,
        discriminator: Any,
        loss: Adversarial,
        augment: nn.Module | None = None,
        matching: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float = 0.0,
        finite_difference: float = 0.0,
        penalty_interval: int = 1,
        lecam: float = 0.0,
        consistency: float = 0.0,
        feature_matching: float = 0.0,
        reuse_fakes: bool = False,
        matcher: str | None = None,
        matcher_weight: float = 0.0,
        **loop: Any,
    ):
        super().__init__(**loop)
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.augment = augment
        self.matching = matching
        self.together = math.lcm(2 if matching else 1, getattr(discriminator, "group", 1))
        self.r1, self.r2, self.gradient_penalty = r1, r2, gradient_penalty
        self.finite_difference, self.penalty_interval = finite_difference, penalty_interval
        self.lecam_weight, self.lecam = lecam, LeCam() if lecam else None
        self.consistency, self.feature_matching = consistency, feature_matching
        self.unshared: Tensor | None = None  # (K,) bool of the captions; None: all are
        if consistency and augment is None:
            raise UserError(
                f"objective.consistency={consistency}: it is that of an image and its augmentation, and there is none; "
                "add augment@objective.augment=diffaugment"
            )
        self.adaptive = hasattr(augment, "commit")
        self.shared = ("lecam",) * bool(lecam) + ("augment",) * self.adaptive
        self.reuse_fakes = reuse_fakes
        self.kept: deque[Tensor] = deque()  # of each micro-batch, from one phase to the next
        if bool(matcher) != bool(matcher_weight) or (matcher and self.accumulate > 1):
            raise UserError(
                f"objective.matcher={matcher}, matcher_weight={matcher_weight}, accumulate={self.accumulate}: expected "
                "a run and a weight above 0, and accumulate=1, as images are contrasted over the whole batch"
            )
        self.matcher, self.matcher_weight = matcher, matcher_weight
        self.judge: Matcher | None = None
        self.latent_channels = generator.latent_channels
        self.phases = {"discriminator": self.discriminator_loss, "generator": self.generator_loss}

    def on_fit_start(self) -> None:
        data: Any = getattr(self._trainer, "datamodule", None)  # None outside of a training
        if self.feature_matching and data is not None:
            self.unshared = data.train.unshared.to(self.device)
        if self.matcher:
            self.judge = Matcher(self.matcher, self.device)
            self.judge.require(self.config)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if "discriminator" not in self.phases:  # as in a distillation without it
            return
        if self.lecam is not None:
            self.lecam.commit()
        if self.adaptive:
            self.logs["augment/probability"] = self.augment.probability.clone()
            self.augment.commit(len(batch) * self.trainer.world_size)

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        due = self.trainer.global_step % self.penalty_interval == 0
        penalize = due and (self.r1 or self.r2 or self.gradient_penalty)
        real = self.perceived(batch.image, batch, "discriminator/real")
        with self.ahead_of("generator") if self.reuse_fakes else nullcontext():
            generated = self.generated(batch, "discriminator")
        if self.reuse_fakes:
            self.kept.append(generated)
        fake = self.perceived(generated.detach(), batch, "discriminator/fake").detach()
        twice = penalize and (self.gradient_penalty or not self.finite_difference)  # differentiates twice
        if twice:
            self.until_backward.enter_context(self.strategy.full_params(self.discriminator))
            real = real.detach().requires_grad_()  # not on the batch, which the generator's phase sees, too
            fake.requires_grad_()

        with differentiable_twice(real.device.type) if twice else nullcontext():
            features = self.discriminator.features(real)
            real_logits = self.discriminator.logits(features, batch.condition)
            fake_logits = self.discriminator.logits(self.discriminator.features(fake), batch.condition)
            loss = per_sample(self.loss.discriminator(real_logits, fake_logits))
            logs = {"discriminator/real_logits": real_logits.mean(), "discriminator/fake_logits": fake_logits.mean()}

            if self.matching:
                differs = mismatch(self.discriminator, batch, features, real_logits)
                logs["discriminator/mismatch"] = differs.mean()
                loss = loss + self.matching * differs

            if self.adaptive:
                self.augment.see(real_logits)
            if self.lecam is not None:
                lecam = self.lecam(real_logits, fake_logits)
                logs["discriminator/lecam"] = lecam.mean()
                loss = loss + self.lecam_weight * lecam
            if self.consistency:
                change = self.change(batch.image, real_logits, batch, "real")
                change = change + self.change(generated.detach(), fake_logits, batch, "fake")
                logs["discriminator/consistency"] = change.mean()
                loss = loss + self.consistency * change

            logs["discriminator/loss"] = loss.mean()
            if penalize:
                penalty, parts = penalties(self, batch, real, fake, real_logits, fake_logits)
                loss = loss + self.penalty_interval * penalty
                logs |= parts
        return loss.mean(), logs

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.judged(self.fresh(batch), batch)

    def fresh(self, batch: Batch) -> Tensor:
        """The images (N, 3, H, W) of the generator's phase: new ones, or those of the discriminator's."""
        return self.kept.popleft() if self.kept else self.generated(batch, "generator")

    def judged(self, generated: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs of generated images (N, 3, H, W) before the discriminator, and the matcher if there is one."""
        fake = self.perceived(generated, batch, "generator/fake")
        real_logits = None
        if self.loss.needs_real:
            real = self.discriminator.features(self.perceived(batch.image, batch, "generator/real"))
            real_logits = self.discriminator.logits(real, batch.condition)
        features = self.discriminator.features(fake)
        fake_logits = self.discriminator.logits(features, batch.condition)
        loss = per_sample(self.loss.generator(fake_logits, real_logits))
        logs = {"generator/loss": loss.mean()}
        if self.matching:
            differs = mismatch(self.discriminator, batch, features, fake_logits)
            logs["generator/mismatch"] = differs.mean()
            loss = loss + self.matching * differs
        if self.feature_matching:
            with torch.no_grad():
                target = self.discriminator.features(self.perceived(batch.image, batch, "generator/fake"))
            distance = self.paired(batch) * feature_distance(features, target)
            logs["generator/feature_matching"] = distance.mean()
            loss = loss + self.feature_matching * distance
        if self.judge is None:
            return loss.mean(), logs
        matcher = self.judge.objective
        sentence, word, right = matcher.contrast(
            self.last(generated), batch.condition, batch.caption, self.strategy.gather
        )
        contrast = (sentence + matcher.words * word).mean()
        logs |= {"generator/matcher": contrast, "generator/matcher_accuracy": right.float().mean()}
        return loss.mean() + self.matcher_weight * contrast, logs

    def paired(self, batch: Batch) -> Tensor:
        """(N,) bool: whether what is drawn is to be the image beside it, and no other of its caption."""
        alone = True if self.unshared is None else self.unshared[batch.caption]
        return (batch.caption != DROPPED) & alone

    def change(self, image: Tensor, logits: Tensor, batch: Batch, kind: str) -> Tensor:
        """(N,) |D(x) - D(T(x))|^2 of images x with these logits."""
        view = self.augment(image, self.uniform(f"discriminator/consistency/{kind}", batch, self.augment.num_draws))
        again = self.discriminator.logits(self.discriminator.features(self.seen(view)), batch.condition)
        return per_sample((again - logits).float().square())

    def generated(self, batch: Batch, stream: str) -> Tensor:
        """(N, 3, H, W) in [-1, 1], float32 as real images are: augmented in bf16 they would be known by its levels."""
        return self.generator(self.normal(stream, batch, self.latent_channels), batch.condition).float()

    def last(self, generated: Tensor) -> Tensor:
        """Whole images (N, 3, H, W) of what `generated` returns, for the matcher."""
        return generated

    def perceived(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        """What the discriminator's weights see of images (N, 3, H, W), augmented: these, or frozen features of them."""
        return self.seen(self.augmented(image, batch, stream))

    def seen(self, image: Tensor) -> Tensor:
        return self.discriminator.perceive(image) if hasattr(self.discriminator, "perceive") else image

    def augmented(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        if self.augment is None or self.consistency:
            return image
        return self.augment(image, self.uniform(stream, batch, self.augment.num_draws))
