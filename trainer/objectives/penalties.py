"""The gradient penalties of a GAN's discriminator, by its settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainer.batch import Batch
from trainer.losses import regularizers
from trainer.losses.adversarial import per_sample


def penalties(
    gan: Any, batch: Batch, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """(N,) R1, R2 and WGAN-GP, weighted as the GAN says, and their logs.

    real, fake: what D's weights see, N rows, with gradients where a penalty is exact. Logits (N, ...) are theirs.
    """

    def judge(image: Tensor) -> Tensor:
        return per_sample(gan.discriminator.logits(gan.discriminator.features(image), batch.condition))

    total = torch.zeros(len(batch), device=real.device)
    logs = {}
    for name, gamma, image, logits in (("r1", gan.r1, real, real_logits), ("r2", gan.r2, fake, fake_logits)):
        if not gamma:
            continue
        logits = per_sample(logits)
        if gan.finite_difference:
            step = gan.normal(f"discriminator/{name}", batch, image[0].numel()).view_as(image)
            value = regularizers.approximate_r1(judge, image, logits, step, gan.finite_difference)
        else:
            value = regularizers.r1(logits, image)
        logs[f"discriminator/{name}"] = value.mean()
        total = total + gamma / 2 * value
    if gan.gradient_penalty:
        mix = gan.uniform("discriminator/gradient_penalty", batch, 1)
        value = regularizers.gradient_penalty(judge, real, fake, mix)
        logs["discriminator/gradient_penalty"] = value.mean()
        total = total + gan.gradient_penalty * value
    return total, logs


@contextmanager
def differentiable_twice(device: str) -> Iterator[None]:
    """Within it, a forward is float32 with its attention written out: the fused kernels have no second derivative."""
    with torch.autocast(device, enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield
