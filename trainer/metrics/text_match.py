"""Whether images show what their captions say, by the vectors of a model that embeds both in one space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import noise
from trainer.errors import UserError

_AT_ONCE = 128  # images: memory is 128 x candidates x D doubles


def clip_score(images: Tensor, captions: Tensor) -> Tensor:
    """CLIPScore (N,): 2.5 max(cos(image, caption), 0), as Hessel et al. 2021 define it, in [0, 2.5].

    images, captions: (N, D) vectors of CLIP, in pairs. Others report 100 max(cos, 0) under the same name, torchmetrics
    among them: that is 40 times this, and one figure with two scales would only be confused.
    """
    return 2.5 * F.cosine_similarity(images.double(), captions.double()).clamp(min=0)


def r_precision(images: Tensor, texts: Tensor, own: Tensor, candidates: int = 100, seed: int = 0) -> float:
    """R-precision (Xu et al. 2018, AttnGAN) in [0, 1]: share of images whose own caption has the largest cosine.

    images: (N, D) in the order of their numbers. texts: (M, D), one row for each caption that differs in text from all
    others. own: (N,) row of each image's caption. candidates: captions that are ranked, the own one and others, drawn
    without repetition by (seed, number of the image), so the same in every process. A tie is not a first rank.
    UserError for fewer texts than candidates. Chance is 1 / candidates.
    """
    if not 2 <= candidates <= len(texts):
        raise UserError(
            f"R-precision among {candidates} captions: there are {len(texts)} that differ; expected 2 candidates or "
            f"more and at least as many captions"
        )
    others = _others(own, len(texts), candidates - 1, seed)
    images, texts = F.normalize(images.double()), F.normalize(texts.double())
    first = 0
    for image, row, other in zip(images.split(_AT_ONCE), own.split(_AT_ONCE), others.split(_AT_ONCE), strict=True):
        rows = torch.cat([row[:, None], other], 1).to(texts.device)  # (n, candidates)
        cosine = (texts[rows] @ image.to(texts.device)[:, :, None]).squeeze(2)
        first += int((cosine[:, :1] > cosine[:, 1:]).all(1).sum())
    return first / len(images)


def _others(own: Tensor, num_texts: int, count: int, seed: int) -> Tensor:
    """(N, count) rows of texts other than the own one, no row twice: Floyd's sample (Bentley & Floyd 1987)."""
    numbers = torch.arange(len(own), device=own.device)
    random = noise.bits(seed, "r_precision", numbers, count) & 0x7FFFFFFFFFFFFFFF
    rows = torch.empty_like(random)
    for column, last in enumerate(range(num_texts - 1 - count, num_texts - 1)):
        pick = random[:, column] % (last + 1)
        taken = (rows[:, :column] == pick[:, None]).any(1)
        rows[:, column] = torch.where(taken, last, pick)
    return rows + (rows >= own[:, None])  # the own row is left out by counting past it
