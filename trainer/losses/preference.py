"""A linear score that orders pairs as they were ordered (Bradley & Terry 1952)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

ITERATIONS = 50
FOLDS = 5


def negative_log_likelihood(weight: Tensor, differences: Tensor) -> Tensor:
    """(M,) -log sigmoid(w . (f(x) - f(y))) in nats, of weights (D,) and differences (M, D) of better from worse."""
    return -logsigmoid(differences @ weight)


def fit(differences: Tensor, strength: float) -> Tensor:
    """Weights (D,) float64 that minimise mean -log sigmoid(w . d) + strength / 2 |w|^2, by Newton's method.

    differences: (M, D) float64, features of what is better minus those of what is worse. The minimum is one, so nothing
    is drawn: the same pairs give the same weights.
    """
    weight = differences.new_zeros(differences.shape[1])
    ridge = strength * torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    for _ in range(ITERATIONS):
        wrong = torch.sigmoid(-differences @ weight)  # probability of the order that was not chosen
        slope = strength * weight - differences.T @ wrong / len(differences)
        curvature = ridge + differences.T @ (differences * (wrong * (1 - wrong))[:, None]) / len(differences)
        step = torch.linalg.solve(curvature, slope)
        size, before = 1.0, objective(weight, differences, strength)
        while objective(weight - size * step, differences, strength) > before and size > 1e-6:
            size /= 2  # a whole step may lead too far where sigmoids are flat
        weight = weight - size * step
        if step.norm() <= 1e-9 * (1 + weight.norm()):
            break
    return weight


def objective(weight: Tensor, differences: Tensor, strength: float) -> Tensor:
    return negative_log_likelihood(weight, differences).mean() + strength / 2 * weight.square().sum()


def held_out_accuracy(differences: Tensor, strength: float) -> float:
    """Share of pairs (M, D) in their order by weights that were fitted to others: each fifth by the other four."""
    number = torch.arange(len(differences)) % FOLDS
    right = 0
    for fold in range(min(FOLDS, len(differences))):
        weight = fit(differences[number != fold], strength)
        right += int((differences[number == fold] @ weight > 0).sum())
    return right / len(differences)
