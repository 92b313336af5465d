"""Priors over the codes of a tokenizer, given the caption: DALL-E and MaskGIT."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer.batch import Batch
from trainer.data.encoded import Encoding
from trainer.networks.token_generators import TokenGenerator
from trainer.objectives.base import Objective
from trainer.runs.trained import Tokenizer


class TokenPrior(Objective, ABC):
    """Minimises the cross-entropy of the codes of images, in nats a code, as a subclass takes it.

    generator: the prior, which trains, and the tokenizer, which is frozen. The weights of that are read from the run
    `tokenizer` when a new training begins, and kept in checkpoint and export: nothing needs that run afterwards. Codes
    come with the batch (`encoding`), or are made of images that data augmentation has changed.
    """

    averaged = ("generator.prior",)
    draws_with = "generator"
    generator: Any

    def __init__(self, generator: TokenGenerator, tokenizer: str | None = None, **loop: Any):
        super().__init__(**loop)
        self.generator = generator
        self.tokenizer = tokenizer
        self.latent_channels = generator.latent_channels
        self.phases = {"prior": self.prior_loss}

    def network(self, name: str) -> nn.Module:
        return super().network(name if name.startswith("generator.") else f"generator.{name}")

    def begin(self) -> None:
        Tokenizer.into(self.generator.tokenizer, self.tokenizer, self.config)
        super().begin()

    @property
    def encoding(self) -> Encoding:
        return Encoding("codes", self.generator.tokenizer, self.generator.tokenizer.encode)

    def codes(self, batch: Batch) -> Tensor:
        """(N, T) of the images, row by row."""
        if batch.encoded is not None:
            return batch.encoded.flatten(1)
        with torch.no_grad():
            return self.generator.tokenizer.encode(batch.image).flatten(1)

    def nats(self, codes: Tensor, seen: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each code (N, T) given what the prior sees (N, T), and whether it is the likeliest."""
        logits = self.generator.prior(seen, batch.condition).float().transpose(1, 2)
        return cross_entropy(logits, codes, reduction="none"), logits.detach().argmax(1) == codes

    @abstractmethod
    def prior_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...


class DallE(TokenPrior):
    """-log p(codes | caption) / T, by each code given those before it (Ramesh et al. 2021)."""

    def prior_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        codes = self.codes(batch)
        nats, right = self.nats(codes, codes, batch)
        loss = nats.mean()
        return loss, {"prior/loss": loss, "prior/accuracy": right.float().mean()}


class MaskGIT(TokenPrior):
    """Cross-entropy of hidden codes given the others (Chang et al. 2022, equation 1), a mean over those of an image.

    Of T places ceil(cos(pi/2 * r) T) are hidden, r uniform in [0, 1) for each image.
    """

    def prior_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        codes = self.codes(batch)
        places = codes.shape[1]
        draws = self.uniform("prior", batch, 1 + places)
        count = (torch.cos(math.pi / 2 * draws[:, :1]) * places).ceil().clamp(min=1)
        hidden = draws[:, 1:].argsort(1).argsort(1) < count  # those of the lowest draws
        nats, right = self.nats(codes, codes.masked_fill(hidden, self.generator.prior.num_codes), batch)
        loss = ((nats * hidden).sum(1) / count[:, 0]).mean()
        accuracy = ((right & hidden).sum(1) / count[:, 0]).mean()
        return loss, {"prior/loss": loss, "prior/accuracy": accuracy}
