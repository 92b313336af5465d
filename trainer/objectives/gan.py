"""Text-conditioned GAN: a discriminator of real, generated and mismatched pairs, and a generator that answers."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses import regularizers
from trainer.losses.adversarial import per_sample
from trainer.objectives.base import Objective
from trainer.objectives.guidance import DROPPED
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
    reuse_fakes: the generator's phase takes the images that the discriminator has just seen, augmented anew, not new
    ones: the generator runs once a step. They are kept with all that their gradient needs, of all micro-batches.
    matcher: run of objective=matching; matcher_weight times its DAMSM loss of generated images joins the generator's
    (AttnGAN, Xu et al. 2018). It is frozen, read when a training starts, and in no checkpoint.
    """

    averaged = ("generator",)
    draws_with = "generator"
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
        self.in_pairs = bool(matching)
        self.r1, self.r2, self.gradient_penalty = r1, r2, gradient_penalty
        self.finite_difference = finite_difference
        self.penalty_interval = penalty_interval
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
        if self.matcher:
            self.judge = Matcher(self.matcher, self.device)
            self.judge.require(self.config)

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

        with torch.autocast(real.device.type, enabled=False) if twice else nullcontext():
            features = self.discriminator.features(real)
            real_logits = self.discriminator.logits(features, batch.condition)
            fake_logits = self.discriminator.logits(self.discriminator.features(fake), batch.condition)
            loss = per_sample(self.loss.discriminator(real_logits, fake_logits))
            logs = {"discriminator/real_logits": real_logits.mean(), "discriminator/fake_logits": fake_logits.mean()}

            if self.matching:
                mismatch = self.mismatch(batch, features, real_logits)
                logs["discriminator/mismatch"] = mismatch.mean()
                loss = loss + self.matching * mismatch

            logs["discriminator/loss"] = loss.mean()
            if penalize:
                penalty, parts = self.penalty(batch, real, fake, real_logits, fake_logits)
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
            mismatch = self.mismatch(batch, features, fake_logits)
            logs["generator/mismatch"] = mismatch.mean()
            loss = loss + self.matching * mismatch
        if self.judge is None:
            return loss.mean(), logs
        matcher = self.judge.objective
        sentence, word, right = matcher.contrast(generated, batch.condition, batch.caption, self.strategy.gather)
        mismatch = (sentence + matcher.words * word).mean()
        logs |= {"generator/matcher": mismatch, "generator/matcher_accuracy": right.float().mean()}
        return loss.mean() + self.matcher_weight * mismatch, logs

    def mismatch(self, batch: Batch, features: Tensor, logits: Tensor) -> Tensor:
        """(N,) softplus(D(x, c') - D(x, c)): an image must fit its own caption c better than another's, c'."""
        other = batch.neighbour()
        differs = (batch.caption != batch.caption[other]) & (batch.caption[other] != DROPPED)  # it fits every image
        wrong = self.discriminator.logits(features, batch.condition.rows(other))
        return differs * per_sample(softplus(wrong - logits))

    def penalty(
        self, batch: Batch, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def judge(image: Tensor) -> Tensor:
            return per_sample(self.discriminator.logits(self.discriminator.features(image), batch.condition))

        total = torch.zeros(len(batch), device=real.device)
        logs = {}
        for name, gamma, image, logits in (("r1", self.r1, real, real_logits), ("r2", self.r2, fake, fake_logits)):
            if not gamma:
                continue
            logits = per_sample(logits)
            if self.finite_difference:
                step = self.normal(f"discriminator/{name}", batch, image[0].numel()).view_as(image)
                value = regularizers.approximate_r1(judge, image, logits, step, self.finite_difference)
            else:
                value = regularizers.r1(logits, image)
            logs[f"discriminator/{name}"] = value.mean()
            total = total + gamma / 2 * value
        if self.gradient_penalty:
            mix = self.uniform("discriminator/gradient_penalty", batch, 1)
            value = regularizers.gradient_penalty(judge, real, fake, mix)
            logs["discriminator/gradient_penalty"] = value.mean()
            total = total + self.gradient_penalty * value
        return total, logs

    def generated(self, batch: Batch, stream: str) -> Tensor:
        """(N, 3, H, W) in [-1, 1], float32 as real images are: augmented in bf16 they would be known by its levels."""
        return self.generator(self.normal(stream, batch, self.latent_channels), batch.condition).float()

    def perceived(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        """What the discriminator's weights see of images (N, 3, H, W), augmented: these, or frozen features of them."""
        image = self.augmented(image, batch, stream)
        return self.discriminator.perceive(image) if hasattr(self.discriminator, "perceive") else image

    def augmented(self, image: Tensor, batch: Batch, stream: str) -> Tensor:
        if self.augment is None:
            return image
        return self.augment(image, self.uniform(stream, batch, self.augment.num_draws))
