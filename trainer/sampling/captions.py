"""Captions of images by beam search: the likeliest that is found, of whole captions, with what it is worth."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer import noise
from trainer.errors import UserError
from trainer.networks.prior import Past
from trainer.sampling.runtime import device_of


class Written(NamedTuple):
    """text: a caption. score: its mean log probability a piece, in nats, at most 0."""

    text: str
    score: float


@torch.no_grad()
def beam_search(
    captioner: Any, images: Tensor, end: int, beams: int = 4, latent: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ids (N, L) of the likeliest captions of images (N, 3, H, W) in [-1, 1], with `end` behind them, and scores (N,).

    latent: (N, Z) of a captioner that has one. Of each image the `beams` likeliest beginnings are kept; of those that
    are whole the one with the highest mean log probability a piece is taken (Wu et al. 2016, with a length penalty of
    1). beams=1 takes the likeliest piece each time. A caption that is not whole after `max_tokens` pieces is cut there.
    """
    if beams < 1:
        raise UserError(f"beams={beams}: expected at least 1")
    count, written = len(images), captioner.written
    past = captioner.begin(images) if latent is None else captioner.begin(images, latent)
    rows = torch.arange(count, device=images.device).repeat_interleave(beams)
    past = chosen(past, rows)
    last = torch.full((count * beams, 1), captioner.vocabulary, device=images.device)
    total = torch.full((count, beams), -torch.inf, device=images.device)
    total[:, 0] = 0
    length, done = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
    ids = torch.zeros(count, beams, 0, dtype=torch.int64, device=images.device)
    for _ in range(captioner.max_tokens):
        logits, past = captioner.step(last, past)
        each = logits[:, -1].float().log_softmax(-1).view(count, beams, -1)
        stay = torch.where(written == end, 0.0, -torch.inf)  # what is whole stays as it is
        each = torch.where(done[..., None], stay, each)
        total, place = (total[..., None] + each).flatten(1).topk(beams)
        beam, piece = place // len(written), written[place % len(written)]
        length = length.gather(1, beam) + ~done.gather(1, beam)
        done = done.gather(1, beam) | (piece == end)
        ids = torch.cat([ids.gather(1, beam[..., None].expand(-1, -1, ids.shape[2])), piece[..., None]], 2)
        past = chosen(past, (beam + beams * torch.arange(count, device=beam.device)[:, None]).flatten())
        last = piece.view(-1, 1)
        if done.all():
            break
    mean = total / length
    best = mean.masked_fill(~done, -torch.inf).where(done.any(1, keepdim=True), mean).argmax(1)
    index = torch.arange(count, device=best.device)
    return ids[index, best], mean[index, best]


def chosen(past: Past, rows: Tensor) -> Past:
    """The past of some rows."""
    return Past([(key[rows], value[rows]) for key, value in past.blocks], past.words[rows], past.places)


def latents_of(images: Tensor, seed: int, count: int) -> Tensor:
    """(N, count) standard normals of images (N, 3, H, W) uint8: those of a picture, whatever its name and company."""
    pixels = (each.tobytes() for each in images.cpu().numpy())
    keys = [int.from_bytes(hashlib.blake2b(each, digest_size=8).digest(), "little", signed=True) for each in pixels]
    return noise.normal(seed, "caption", torch.tensor(keys), count)


def captions_of(
    objective: Any, text: Any, images: Tensor, beams: int = 4, batch_size: int = 64, seed: int = 0
) -> list[Written]:
    """Captions of images (N, 3, H, W) uint8, on the objective's device and with its EMA weights.

    seed: of the latents, where the captioner has one. UserError for a run that writes no captions.
    """
    captioner = getattr(objective, "captioner", None)
    if captioner is None:
        raise UserError(f"a run of {objective.config.get('name')} writes no captions: give one of captioning")
    training, device = captioner.training, device_of(objective)
    captioner.eval()
    found = []
    try:
        with objective.ema_weights():
            for part in images.split(batch_size):
                pixels, count = part.to(device).float().div(127.5).sub(1), captioner.latent_channels
                latent = latents_of(part, seed, count).to(device) if count else None
                ids, scores = beam_search(captioner, pixels, text.end, beams, latent)
                found += [Written(*each) for each in zip(text.texts(ids.tolist()), scores.tolist(), strict=True)]
    finally:
        captioner.train(training)
    return found

