"""A network called as a conditioning says: in a precision, with truncated styles, guided by captions and sources."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.features import resized


class Conditioned:
    """(latents, condition) -> images (N, 3, H, W) in [-1, 1] of an objective, on its device.

    network: what it draws with. UserError where that cannot be drawn so.
    """

    def __init__(self, objective: Any, network: Any, text: Any, conditioning: Conditioning, device: torch.device):
        self.objective, self.network, self.text = objective, network, text
        self.conditioning, self.device = conditioning, device
        self.task = getattr(network, "task", None)
        self.scale, self.source_scale = conditioning.guidance, conditioning.source_guidance
        self._unconditional: Condition | None = None
        conditioning.require_of(network)
        if self.source_scale is not None and not getattr(self.task, "source_dropout", 0):
            raise UserError(
                f"source_guidance={self.source_scale}: this run has never drawn without a source, to guide "
                "away from that; train an image task with task.source_dropout=0.1"
            )

    @property
    def plain(self) -> bool:
        """Whether it is one call of the network as it is."""
        return not self.conditioning.alters and self.scale is None and self.source_scale is None

    def __call__(self, latents: Tensor, condition: Condition) -> Tensor:
        with self.conditioning.computing(self.device), self.conditioning.altering(self.network):
            return self.guided(latents, condition)

    def guided(self, latents: Tensor, condition: Condition) -> Tensor:
        if self.scale is None and self.source_scale is None:
            images: Tensor = self.objective.sample(latents, condition)
            return images
        if self.scale is None:
            return self.objective.guided(latents, condition, self._without_source(condition), self.source_scale)
        if self._unconditional is None:
            self._unconditional = self.text([self.conditioning.negative or ""]).to(self.device)
        length = condition.mask.shape[1]  # of captions that may have been cut to what they hold
        if self._unconditional.mask[:, length:].any():
            condition, length = resized(condition, self._unconditional.mask.shape[1]), self._unconditional.mask.shape[1]
        unconditional = resized(self._unconditional, length).rows([0] * len(latents))
        unconditional = unconditional._replace(source=condition.source)
        if self.source_scale is None:
            return self.objective.guided(latents, condition, unconditional, self.scale)
        conditions = self._without_source(unconditional), unconditional, condition
        return self.objective.guided_by_both(latents, conditions, self.scale, self.source_scale)

    def _without_source(self, condition: Condition) -> Condition:
        source, task = condition.source, self.task
        assert source is not None and task is not None
        return condition._replace(source=task.nothing(len(source), source.shape[2:]).to(source))
