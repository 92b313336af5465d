"""Fine-tuning of a prior of codes by a reward of the images that they stand for: a policy gradient with a leash."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import UserError
from trainer.networks.token_generators import TokenGenerator
from trainer.objectives.reward import Rewarded
from trainer.objectives.rewards import Reward


class PolicyGradient(Rewarded):
    """The prior p maximises, over captions c of the data and codes k that it draws itself,

        E[weight R(D(k, c), c)] - kl KL(p(k | c) || p0(k | c))

    with D the tokenizer's decoder and p0 the frozen start. Of `draws` k for a caption, each with the return
    r = weight R - kl log p(k | c) / p0(k | c), the gradient is that of -(r_i - mean_{j != i} r_j) log p(k_i | c)
    (REINFORCE with the others as baseline: Kool et al. 2019, RLOO of Ahmadian et al. 2024). No gradient of R is needed.
    generator: that of a run of experiment=dalle, or of maskgit, where k is all that its steps choose: codes, those that
    are hidden again among them, and which are kept. Its tokenizer stays as it is. reward: R, see
    `trainer.objectives.rewards`. kl: of the leash, in the reward's units a nat of an image.
    """

    averaged = ("generator.prior",)

    def __init__(
        self, generator: Any, reward: Reward, weight: float = 1.0, kl: float = 0.05, draws: int = 4, **loop: Any
    ):
        super().__init__(generator, reward, **loop)
        if not isinstance(generator, TokenGenerator) or generator.top_k:
            raise UserError(
                "objective=reward_tokens: the probability of its images is known of a run of experiment=dalle or "
                "maskgit with generator.top_k=null; for a GAN or VAE say experiment=reward"
            )
        if weight <= 0 or kl < 0 or draws < 2:
            raise UserError(
                f"objective.weight={weight}, kl={kl}, draws={draws}: expected above 0, from 0, and at least 2"
            )
        self.weight, self.kl, self.draws = weight, kl, draws
        self.start = deepcopy(generator.prior).requires_grad_(False).eval()
        self.phases = {"prior": self.prior_loss}

    def network(self, name: str) -> nn.Module:
        return super().network(name if name.startswith("generator.") else f"generator.{name}")

    def begin(self) -> None:
        super().begin()
        self.start.load_state_dict(self.generator.prior.state_dict())

    def prior_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.arange(len(batch), device=batch.position.device).repeat_interleave(self.draws)
        latent = self.normal("policy", batch, self.draws * self.latent_channels).view(len(rows), -1)
        drawn = replace(batch[rows], encoded=None)
        with torch.no_grad(), self.strategy.full_params(self.generator.prior):
            codes, chosen = self.generator.choices(latent, drawn.condition)
            reward = self.rewarded(self.generator.image(codes, drawn.condition).float(), drawn)
            before = self.generator.log_probability(self.start, chosen, drawn.condition)
        now = self.generator.log_probability(self.generator.prior, chosen, drawn.condition)
        nats = now.detach() - before
        loss = (-self.advantage(self.weight * reward - self.kl * nats) * now).mean()
        return loss, {"prior/loss": loss, "prior/reward": reward.mean(), "prior/kl": nats.mean()}

    def advantage(self, returns: Tensor) -> Tensor:
        """(N * draws,) of returns: each minus the mean of the others of its caption."""
        returns = returns.view(-1, self.draws)
        others = (returns.sum(1, keepdim=True) - returns) / (self.draws - 1)
        return (returns - others).flatten()
