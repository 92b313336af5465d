"""A small generator that learns from a trained one: same latents, same captions, and no image of the data needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, no_grad

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.distillation import feature_distance, pixel_distance
from trainer.networks.sized import canvases, takes_any_size
from trainer.objectives.gan import GAN
from trainer.objectives.sizes import of_one_size
from trainer.runs.trained import Teacher


class Distillation(GAN):
    """A GAN whose real images are the teacher's, drawn of fresh latents and captions in every step.

    The student minimises, on the teacher's own latents z and captions c,
        pixel |S(z, c) - T(z, c)| + feature d(f(S), f(T)) + adversarial L_G(D(S(z, c), c))
    where f is the trunk of the teacher's own discriminator or encoder (Hinton et al. 2015; for GANs Aguinaldo et al.
    2019). D starts as the teacher's, if that has one of the same shape.
    teacher: run, checkpoint or export of anything that draws: a GAN, a VAE, a model of many steps.
    real: "teacher", the images that D learns as real, or "data": those of the data set, where the last of the Fréchet
    distance to them is to be had, and a student may become better than its teacher; augmented as for the teacher then.
    A text encoder inside the teacher's generator is the student's, too, and the discriminator's where that starts anew,
    frozen, if theirs have its shape.
    augment, matching, r1, matcher and so on as in GAN, all of it within the adversarial term.
    """

    def __init__(
        self,
        teacher: str | None,
        pixel: float = 1.0,
        feature: float = 2.0,
        adversarial: float = 0.3,
        real: str = "teacher",
        **gan: Any,
    ):
        super().__init__(**gan)
        if not teacher:
            raise UserError("teacher=null: name the run to learn from, as in teacher=outputs/cgan")
        if min(pixel, feature, adversarial) < 0 or not pixel + feature + adversarial:
            raise UserError(
                f"objective.pixel={pixel}, feature={feature}, adversarial={adversarial}: expected all from 0, one above"
            )
        if real not in ("teacher", "data") or (real == "data" and not adversarial):
            raise UserError(f"objective.real={real}: expected teacher or data, and adversarial above 0 with data")
        self.pixel, self.feature, self.adversarial, self.real = pixel, feature, adversarial, real
        self.path = teacher
        self.teacher: Teacher | None = None
        if not adversarial:
            del self.phases["discriminator"]
            self.make_optimizer = {"generator": self.make_optimizer["generator"]}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.teacher = Teacher(self.path)
        self.teacher.require(self.config)
        if self.canvases is not None:  # batches of several sizes, which it draws as well
            drawing = self.teacher.objective
            if not takes_any_size(drawing.get_submodule(drawing.draws_with)):
                raise of_one_size(f"teacher={self.path}", self.config["data"]["buckets"])
            self.canvases += canvases(drawing.modules())
        own, of_teacher = ((c.get("text") or {}).get("caption_dropout", 0) for c in (self.config, self.teacher.config))
        if own and not of_teacher:
            raise UserError(f"text.caption_dropout={own}: the teacher draws nothing of an empty caption; leave it out")
        if self.teacher.latent_channels != self.latent_channels:
            raise UserError(
                f"objective.generator.latent_channels={self.latent_channels}: the teacher draws from "
                f"{self.teacher.latent_channels}, and both from the same; set it to that"
            )
        if self.feature and not self.teacher.stages:
            raise UserError(
                f"objective.feature={self.feature}: the teacher {self.path} has no discriminator or encoder of images "
                "with several scales; set objective.feature=0"
            )
        if self.real == "data" and self.augment is None:
            self.augment = getattr(self.teacher.objective, "augment", None)
        weights = self.teacher.critic.state_dict() if self.teacher.critic is not None else {}
        own = self.discriminator.state_dict()
        same = {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in own.items()}
        if same and not self.config.get("init"):  # which brings its own; a resumed run's come after this
            self.discriminator.load_state_dict(weights)
        if self.teacher.text is not None:
            for network in (self.generator,) if same else (self.generator, self.discriminator):
                read_by(network, self.teacher.text)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert self.teacher is not None
        self.teacher.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.real == "teacher":
            with self.at_size_of(batch):
                batch = replace(batch, image=torch.cat([self.taught(micro) for micro in self.split(batch)]))
        super().training_step(batch, batch_idx)

    def taught(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) of the teacher, by the latents and captions that the student draws from."""
        assert self.teacher is not None
        return self.teacher.sample(self.normal("distillation", batch, self.latent_channels), batch.condition).float()

    def generated(self, batch: Batch, stream: str) -> Tensor:
        return super().generated(batch, "distillation")

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        generated = self.fresh(batch)
        loss, logs = self.distance(generated, batch) if self.pixel or self.feature else (generated.new_zeros(()), {})
        if self.adversarial:
            judged, more = self.judged(generated, batch)
            loss = loss + self.adversarial * judged
            logs |= more
        return loss, logs | {"generator/loss": loss}

    def distance(self, generated: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs of how far images (N, 3, H, W) are from the teacher's."""
        assert self.teacher is not None
        target = batch.image if self.real == "teacher" else self.taught(batch)
        pixel = pixel_distance(generated, target).mean()
        loss, logs = self.pixel * pixel, {"generator/pixel": pixel}
        if self.feature:
            with no_grad():
                seen = self.teacher.features(target)
            feature = feature_distance(self.teacher.features(generated), seen).mean()
            loss = loss + self.feature * feature
            logs["generator/feature"] = feature
        return loss, logs


def read_by(network: Any, weights: dict[str, Tensor]) -> None:
    """A network's own text encoder has these weights from now on, where they fit: words mean what they mean there."""
    text: Any = getattr(network, "text", None)
    own = text.state_dict() if isinstance(text, nn.Module) else {}
    if {key: each.shape for key, each in own.items()} == {key: each.shape for key, each in weights.items()}:
        text.load_state_dict(weights)
        text.requires_grad_(False)
