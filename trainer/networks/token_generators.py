"""Priors of codes as generators: a latent, one standard normal for each choice, and a caption to an image.

Phi(z) of a normal z is uniform, and the code is where the running sum of the probabilities passes it: so a seed is an
image here, too, at any batch size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.normal_distribution import log_cdf
from trainer.networks.prior import Past, Prior
from trainer.networks.tokenizer import Tokenizer


class TokenGenerator(nn.Module, ABC):
    """What the two share: a prior that trains, the frozen tokenizer of an earlier run, and how a code is drawn.

    prior: Prior without what the tokenizer and the generator know (`_partial_: true`). temperature: divides logits;
    below 1 it draws what is likely more often. top_k: only so many of the likeliest codes are drawn, None for all.
    """

    chooses = True  # codes: where a logit rounds otherwise, another may be drawn, and so another image
    causal = False
    latent_channels: int
    tokenizer: Any
    prior: Any

    def __init__(
        self, prior: Callable[..., Prior], tokenizer: Tokenizer, temperature: float = 1.0, top_k: int | None = None
    ):
        super().__init__()
        if not tokenizer.num_codes:
            raise UserError("tokenizer: its bottleneck has no codes; give a run of experiment=fsq or vqvae")
        if temperature <= 0 or (top_k is not None and top_k < 1):
            raise UserError(f"generator.temperature={temperature}, top_k={top_k}: expected above 0, and at least 1")
        self.tokenizer = tokenizer.requires_grad_(False)
        self.prior = prior(num_codes=tokenizer.num_codes, size=tokenizer.size, causal=self.causal)
        self.temperature, self.top_k = temperature, top_k

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, latent_channels)."""
        return self.image(self.draw(latent, [(1.0, condition)]), condition)

    def guided(self, latent: Tensor, condition: Condition, unconditional: Condition, scale: float) -> Tensor:
        """Those of logits l0 + scale (l - l0) in each step, l0 of the caption `unconditional`."""
        return self.image(self.draw(latent, [(scale, condition), (1 - scale, unconditional)]), condition)

    def image(self, codes: Tensor, condition: Condition) -> Tensor:
        return self.tokenizer.decode(codes.unflatten(1, self.tokenizer.size), condition)

    @abstractmethod
    def draw(self, latent: Tensor, weighed: list[tuple[float, Condition]]) -> Tensor:
        """Codes (N, T), by the sum of the logits of several captions, each with its weight."""

    @abstractmethod
    def choices(self, latent: Tensor, condition: Condition) -> tuple[Tensor, Any]:
        """Codes (N, T) as `draw` has them, and all that chance has chosen on the way to them."""

    @abstractmethod
    def log_probability(self, prior: nn.Module, chosen: Any, condition: Condition) -> Tensor:
        """(N,) logarithm of the probability, in nats, that `choices` of a prior are these; without top_k."""

    def step(self, codes: Tensor, weights: list[float], pasts: list[Past]) -> tuple[Tensor, list[Past]]:
        """Logits (N, t, K) of the next places, divided by the temperature, and the pasts with them."""
        found = [self.prior.step(codes, past) for past in pasts]
        logits = sum(weight * logits.float() for weight, (logits, _) in zip(weights, found, strict=True))
        return torch.as_tensor(logits) / self.temperature, [past for _, past in found]

    def choose(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (N, t) by logits (N, t, K) and uniform numbers (N, t), and the logarithm of their probabilities."""
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probability = logits.softmax(-1, dtype=torch.float64)
        until = probability.cumsum(-1)
        passed = until <= uniform[..., None] * until[..., -1:]
        codes = passed.sum(-1, keepdim=True, dtype=torch.int32).clamp(max=logits.shape[-1] - 1).long()
        return codes.squeeze(-1), probability.gather(-1, codes).squeeze(-1).clamp(min=1e-300).log()


class Autoregressive(TokenGenerator):
    """Code after code, each given those before it; keys and values of these are kept (DALL-E, Ramesh et al. 2021)."""

    causal = True

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.latent_channels = self.prior.num_places

    def draw(self, latent: Tensor, weighed: list[tuple[float, Condition]]) -> Tensor:
        weights, pasts = [weight for weight, _ in weighed], [self.prior.begin(each) for _, each in weighed]
        code = torch.full((latent.shape[0], 1), self.prior.num_codes, device=latent.device)
        codes = []
        for uniform in log_cdf(latent)[0].split(1, 1):
            logits, pasts = self.step(code, weights, pasts)
            code, _ = self.choose(logits, uniform)
            codes.append(code)
        return torch.cat(codes, 1)

    def choices(self, latent: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        codes = self.draw(latent, [(1.0, condition)])
        return codes, codes

    def log_probability(self, prior: nn.Module, chosen: Tensor, condition: Condition) -> Tensor:
        logits = prior(chosen, condition).float() / self.temperature
        return -cross_entropy(logits.transpose(1, 2), chosen, reduction="none").sum(1)


class Steps(nn.Module):
    """How many steps of what the latent has numbers for are taken, and how much chance is in the order of places.

    A module without weights, so that a pass can put another in its place (`compression.few_steps`).
    """

    def __init__(self, num_steps: int, choice_temperature: float):
        super().__init__()
        self.num_steps, self.choice_temperature = num_steps, choice_temperature

    def node(self) -> dict[str, Any]:
        numbers = {"num_steps": self.num_steps, "choice_temperature": self.choice_temperature}
        return {"_target_": f"{__name__}.Steps", **numbers}


class Choice(NamedTuple):
    """What a step has seen, codes (N, T) with `num_codes` where hidden; what it drew of all places; how sure it was of
    each, (N, T), with its noise and infinite for what was known; and the codes after it."""

    seen: Tensor
    drawn: Tensor
    confidence: Tensor
    after: Tensor


class Parallel(TokenGenerator):
    """All codes in `num_steps` steps, in each the most confident ones (MaskGIT, Chang et al. 2022, section 3.2).

    Step s of S draws every hidden code, and hides again the ceil(cos(pi/2 * (s + 1)/S) T) of least confidence: the
    logarithm of its probability plus Gumbel noise times `choice_temperature` (1 - (s + 1)/S).
    """

    steps: Steps

    def __init__(self, *arguments: Any, num_steps: int = 8, choice_temperature: float = 4.5, **options: Any):
        super().__init__(*arguments, **options)
        if not 1 <= num_steps <= self.prior.num_places:
            raise UserError(f"generator.num_steps={num_steps}: expected 1 to {self.prior.num_places}, as many as codes")
        self.steps = Steps(num_steps, choice_temperature)
        self.latent_channels = 2 * num_steps * self.prior.num_places

    def draw(self, latent: Tensor, weighed: list[tuple[float, Condition]]) -> Tensor:
        return self.walk(latent, weighed)[-1].after

    def choices(self, latent: Tensor, condition: Condition) -> tuple[Tensor, list[Choice]]:
        steps = self.walk(latent, [(1.0, condition)])
        return steps[-1].after, steps

    def log_probability(self, prior: nn.Module, chosen: list[Choice], condition: Condition) -> Tensor:
        """That of every code that was drawn, of those that were hidden again, too, and of what was kept.

        Confidence is log p + tau Gumbel noise, and the k most confident stay: they are, one after the other, draws
        without replacement by p^(1 / tau) (Plackett-Luce; Kool et al. 2019, "Stochastic beams"). Where tau is 0, as in
        the last step, codes alone decide.
        """
        count, steps = len(chosen[0].seen), len(chosen)
        rows = torch.arange(count, device=chosen[0].seen.device).repeat(steps)
        logits = prior(torch.cat([each.seen for each in chosen]), condition.rows(rows)).float() / self.temperature
        drawn = torch.cat([each.drawn for each in chosen])
        logarithms = -cross_entropy(logits.transpose(1, 2), drawn, reduction="none")  # (steps * N, T)
        total, known = logits.new_zeros(count), 0
        for number, (each, own) in enumerate(zip(chosen, logarithms.split(count), strict=True), start=1):
            total = total + (own * (each.seen == self.prior.num_codes)).sum(1)
            left = number / steps
            if heat := self.steps.choice_temperature * (1 - left):
                kept = self.prior.num_places - num_hidden(left, self.prior.num_places) - known
                order = each.confidence.argsort(1, descending=True)[:, known:]  # the most confident first
                score = own.gather(1, order) / heat
                others = score.flip(1).logcumsumexp(1).flip(1)  # log of the sum over itself and those behind
                total = total + (score - others)[:, :kept].sum(1)
                known += kept
        return total

    def walk(self, latent: Tensor, weighed: list[tuple[float, Condition]]) -> list[Choice]:
        """Step by step."""
        weights, pasts = [weight for weight, _ in weighed], [self.prior.begin(each) for _, each in weighed]
        places, hidden, steps = self.prior.num_places, self.prior.num_codes, self.steps.num_steps
        codes = torch.full((latent.shape[0], places), hidden, device=latent.device)
        taken = []
        probability, logarithm = log_cdf(latent[:, : 2 * steps * places].unflatten(1, (steps, 2, places)))
        uniforms, gumbels = probability[:, :, 0], -(-logarithm[:, :, 1]).log()
        for number, (uniform, gumbel) in enumerate(zip(uniforms.unbind(1), gumbels.unbind(1), strict=True), start=1):
            drawn, confidence = self.choose(self.step(codes, weights, pasts)[0], uniform)
            left = number / steps
            known = codes != hidden
            confidence = confidence + self.steps.choice_temperature * (1 - left) * gumbel
            confidence = confidence.masked_fill(known, torch.inf)
            seen, codes = codes, torch.where(known, codes, drawn)
            if count := num_hidden(left, places):
                least = confidence.topk(count, 1, largest=False).indices
                codes = codes.scatter(1, least, hidden)
            taken.append(Choice(seen, drawn, confidence, codes))
        return taken


def num_hidden(ratio: float, places: int) -> int:
    """ceil(cos(pi/2 * ratio) * places), at least one fewer than there are for ratio > 0; none at 1."""
    return 0 if ratio >= 1 else min(places - 1, math.ceil(math.cos(math.pi / 2 * ratio) * places))
