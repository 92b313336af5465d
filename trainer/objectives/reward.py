"""Fine-tuning of what draws by a reward, held near its start by a leash."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.losses.distillation import pixel_distance
from trainer.objectives.base import Objective
from trainer.objectives.guidance import DROPPED
from trainer.objectives.rewards import Reward
from trainer.runs import checkpoint
from trainer.runs.drawing import require_grown


class Rewarded(Objective):
    """What the two ways have in common: the network of an earlier run that draws, and a frozen reward.

    The weights are those of the run `init`, a GAN, a VAE or an export, when a new training begins; so is the start to
    which a leash leads, which is kept in the checkpoint: nothing needs that run afterwards. UserError if there is none.
    """

    draws_with = "generator"
    generator: Any
    start: Any  # frozen

    def __init__(self, generator: Any, reward: Reward, **loop: Any):
        super().__init__(**loop)
        if getattr(generator, "task", None) is not None:
            raise UserError("objective.generator: it starts from a picture, and rewards are of captions alone")
        self.generator, self.reward = generator, reward
        self.latent_channels = generator.latent_channels

    def begin(self) -> None:
        init = self.config.get("init")
        if not init:
            raise UserError("init=null: name the run to fine-tune, as in init=outputs/cgan")
        saved = checkpoint.start_from(nn.ModuleDict({"generator": self.generator}), init, draws_only=True)
        own = self.config["objective"]["generator"]
        require_grown(f"init={init}", saved["objective"]["generator"], own)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = getattr(self._trainer, "datamodule", None)  # None outside of a training
        self.reward.prepare(data, self.device)

    def train(self, mode: bool = True) -> Rewarded:
        super().train(mode)
        if self.start is not None:
            self.start.eval()
        return self

    def rewarded(self, image: Tensor, batch: Batch) -> Tensor:
        """(N,) of images (N, 3, H, W) in [-1, 1]; 0 where the caption is dropped, and nothing was asked for."""
        return torch.where(batch.caption == DROPPED, 0.0, self.reward(image, batch.caption.clamp(min=0)))


class RewardTuning(Rewarded):
    """The generator minimises, on captions c of the data and latents z,

        -weight R(G(z, c), c) + pixel |G(z, c) - G0(z, c)| + perceptual_weight p(G(z, c), G0(z, c))

    with G0 the frozen start, by the gradient of R (for diffusion Clark et al. 2024). Without the leash, a generator
    finds images that please R and nobody else (reward hacking, Gao et al. 2023): judge by what is not R.
    reward: R, see `trainer.objectives.rewards`. perceptual: (image, target) -> (N,), or None; a run whose p has a
    backbone is judged by another. generator: of any run that draws in one piece; all of it trains.
    """

    averaged = ("generator",)

    def __init__(
        self,
        generator: Any,
        reward: Reward,
        weight: float = 1.0,
        pixel: float = 0.0,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual_weight: float = 1.0,
        **loop: Any,
    ):
        super().__init__(generator.requires_grad_(True), reward, **loop)
        if getattr(generator, "chooses", False):
            raise UserError("objective=reward: what chooses codes has no gradient; say experiment=reward_tokens")
        if weight <= 0 or min(pixel, perceptual_weight) < 0:
            raise UserError(
                f"objective.weight={weight}, pixel={pixel}, perceptual_weight={perceptual_weight}: "
                "expected above 0, and the others from 0"
            )
        self.weight, self.pixel, self.perceptual_weight = weight, pixel, perceptual_weight
        self.perceptual = perceptual if perceptual_weight else None
        self.start = deepcopy(generator).requires_grad_(False).eval() if pixel or self.perceptual else None
        self.phases = {"generator": self.generator_loss}

    def begin(self) -> None:
        super().begin()
        if self.start is not None:
            self.start.load_state_dict(self.generator.state_dict())

    def generator_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.normal("generator", batch, self.latent_channels)
        image = self.generator(latent, batch.condition).float()
        reward = self.rewarded(image, batch).mean()
        loss, logs = -self.weight * reward, {"generator/reward": reward}
        if self.start is not None:
            leash = self.distance(image, self.first(latent, batch)).mean()
            loss, logs["generator/leash"] = loss + leash, leash
        return loss, logs | {"generator/loss": loss}

    @torch.no_grad()
    def first(self, latent: Tensor, batch: Batch) -> Tensor:
        """(N, 3, H, W) that the start draws."""
        return self.start(latent, batch.condition).float()

    def distance(self, image: Tensor, first: Tensor) -> Tensor:
        """(N,) of images from those that the start drew, (N, 3, H, W)."""
        leash = self.pixel * pixel_distance(image, first)
        return leash if self.perceptual is None else leash + self.perceptual_weight * self.perceptual(image, first)
