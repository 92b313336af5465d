"""Matching of images and captions (DAMSM of AttnGAN, Xu et al. 2018): scores of all pairs, and what contrasts them.

Scores are (N, M), image i against caption j, float32 whatever the features' dtype; the losses take the square matrix
of N pairs, where image i and caption i belong together, to one value a pair, (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def word_scores(regions: Tensor, words: Tensor, mask: Tensor, gamma1: float = 5.0, gamma2: float = 5.0) -> Tensor:
    """R(Q, D) of every image with every caption, (N, M): how well the image's regions account for the caption's words.

    For words e_i and regions v_j of D channels, with s_ij = e_i . v_j (eq. 7):
        sbar_ij = exp(s_ij) / sum_k exp(s_kj)                             over the words k, eq. 8
        alpha_ij = exp(gamma1 sbar_ij) / sum_k exp(gamma1 sbar_ik)        over the regions k, eq. 9
        c_i = sum_j alpha_ij v_j                                          what word i looks at, eq. 9
        R(Q, D) = 1/gamma2 log sum_i exp(gamma2 cos(c_i, e_i))            eq. 10
    regions: (N, D, ...); words: (M, L, D); mask: (M, L) bool, False for padding, which is no word.
    """
    with torch.autocast(regions.device.type, enabled=False):
        v, e = regions.float().flatten(2), words.float()
        s = torch.einsum("ndr,mld->nmlr", v, e)  # (N, M, L, R)
        padding = ~mask[None, :, :, None]
        alpha = (gamma1 * s.masked_fill(padding, -torch.inf).softmax(2)).softmax(3)
        # c (N, M, L, D) is never made: c . e = sum_j alpha_j s_j and |c|^2 = alpha' V'V alpha need a tenth of the work
        gram = (alpha.flatten(1, 2) @ (v.transpose(1, 2) @ v)).view_as(alpha)
        norm2 = (gram * alpha).sum(3) * e.square().sum(2)  # |c|^2 |e|^2
        cosine = (alpha * s).sum(3) / norm2.clamp(min=1e-8).sqrt()
        return (gamma2 * cosine).masked_fill(padding[..., 0], -torch.inf).logsumexp(2) / gamma2


def global_scores(image: Tensor, text: Tensor) -> Tensor:
    """R(Q, D) = vbar . ebar / (|vbar| |ebar|), (N, M), for images (N, D) and captions (M, D)."""
    with torch.autocast(image.device.type, enabled=False):
        return normalize(image.float()) @ normalize(text.float()).T


def caption_given_image(scores: Tensor, caption: Tensor, gamma3: float = 10.0) -> Tensor:
    """-log P(D_i | Q_i) in nats, (N,): each image finds its caption among those of the batch, eq. 11 and 12.

    P(D_i | Q_i) = exp(gamma3 R(Q_i, D_i)) / sum_j exp(gamma3 R(Q_i, D_j)), over j = i and all j of another caption.
    scores: (N, N); caption: (N,) numbers, where equal numbers mean equal captions.
    """
    same = caption[:, None] == caption[None, :]
    same.fill_diagonal_(False)
    logits = (gamma3 * scores.float()).masked_fill(same, -torch.inf)
    return logits.logsumexp(1) - logits.diagonal()


def image_given_caption(scores: Tensor, caption: Tensor, gamma3: float = 10.0) -> Tensor:
    """-log P(Q_i | D_i) in nats, (N,): each caption finds its image, eq. 13; as `caption_given_image` the other way."""
    return caption_given_image(scores.T, caption, gamma3)
