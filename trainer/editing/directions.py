"""Global directions: what moves a picture of any generator as words say, measured once for it and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import noise
from trainer.data.source import digest
from trainer.editing.canvas import Canvas, Point
from trainer.editing.edits import Judge
from trainer.errors import UserError
from trainer.losses.reconstruction import l2
from trainer.process import caches, kept
from trainer.process.progress import Progress
from trainer.runs.checkpoint_files import content_digest

IMAGES = 32  # of which the effect of a channel is the mean
SPREAD = 256  # of which its deviation is measured
AT_ONCE = 64  # images drawn
SHARING = (torch.inf, 10.0, 3.0, 1.0, 0.3, 0.1)  # rho
THRESHOLDS = (0.0, 0.1, 0.2, 0.35, 0.5)  # beta
LENGTHS = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24)  # alpha
_VERSION = 1  # raise it when the same generator and judge must be measured anew


class Effects(NamedTuple):
    """Of M channels: how far they vary over images, and where an image goes in the judge's space when one moves so far.

    deviation: (M,). change: (M, D), mean difference of the unit vectors at one deviation more and one less.
    """

    deviation: Tensor
    change: Tensor


def effects(canvas: Canvas, judge: Judge, captions: Sequence[str], path: Path) -> Effects:
    """Those of a generator, whose checkpoint is `path`: measured once, then kept in the cache by the digests of all.

    captions: of its data, that images are drawn of. UserError for a generator without styles.
    """
    if not canvas.sizes:
        raise UserError(f"{path} makes no style of latent and caption, whose channels have directions: how=optimizer")
    file = caches.root() / "directions" / f"{digest(_VERSION, content_digest(path), judge.sha256, *captions)}.npy"
    found = kept.read(file)
    if found is None:
        made = measured(canvas, judge, captions)
        found = torch.cat([made.deviation[:, None], made.change], 1).cpu()
        kept.write(file, found, "the effects of channels")
    found = found.to(canvas.device)
    return Effects(found[:, 0], found[:, 1:])


@torch.no_grad()
def measured(canvas: Canvas, judge: Judge, captions: Sequence[str]) -> Effects:
    """Over images of captions, in an order without pattern, and of latents of seed 0."""
    order = (noise.bits(0, "directions", torch.arange(SPREAD), 1)[:, 0] % len(captions)).tolist()
    latent = noise.normal(0, "directions", torch.arange(SPREAD), canvas.objective.latent_channels).to(canvas.device)
    every = Point(latent, canvas.read([captions[i] for i in order]), latent.new_zeros(SPREAD, canvas.style_channels))
    parts = torch.arange(SPREAD, device=canvas.device).split(AT_ONCE)
    deviation = torch.cat([canvas.channels(every.rows(part)) for part in parts]).std(0)
    both = every.rows(torch.arange(IMAGES, device=canvas.device).repeat(2))
    sign = torch.tensor([1.0, -1.0], device=canvas.device).repeat_interleave(IMAGES)
    progress, change = Progress("directions: moved", "channels", len(deviation)), []
    for number, far in enumerate(deviation):
        channels = latent.new_zeros(2 * IMAGES, len(deviation))
        channels[:, number] = sign * far
        seen = F.normalize(judge.images(canvas(both._replace(channels=channels))), dim=1)
        change.append((seen[:IMAGES] - seen[IMAGES:]).mean(0))
        progress(number + 1)
    return Effects(deviation, torch.stack(change))


def relevance(change: Tensor, words: Tensor, sharing: float = torch.inf) -> Tensor:
    """(N, M), how much each of M channels moves an image as words do, (N, D) directions of N texts; 1 for the most.

    At an infinite rho it is R = E t, of changes E (M, D) and words t (StyleCLIP, Patashnik et al. 2021, section 6). At
    less, R = (E E^T + rho m I)^-1 E t, with m the mean square norm of a change: channels that do the same share what is
    to be done, and none undoes the work of another.
    """
    found = words @ change.T
    if sharing < torch.inf:
        alike = change @ change.T
        alone = alike.diagonal().mean().expand(len(alike)).diag()
        found = torch.linalg.solve(alike + sharing * alone, found.T).T
    return found / found.abs().amax(1, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def directed(
    canvas: Canvas,
    start: Point,
    captions: Sequence[str],
    prompts: Sequence[str],
    judge: Judge,
    found: Effects,
    identity: float = 1.0,
) -> Point:
    """From points, which `captions` describe, along a direction of the style to where the judge finds the prompts.

    s + alpha d R, of deviations d and the relevance R of t = (prompt - caption) / |prompt - caption| in the judge's
    space, in which what is below beta is 0 (Patashnik et al. 2021, section 6). The caption that the generator reads
    stays. Of all alpha, beta and rho that are tried the one is taken that has the least

        1 - cos(G(s + alpha d R), prompt) + identity |G(s + alpha d R) - G(s)|^2.
    """
    wanted = judge.captions(prompts)
    words = F.normalize(wanted - judge.captions(captions), dim=1)
    each = [relevance(found.change, words, sharing) for sharing in SHARING]
    cut = torch.stack([torch.where(some.abs() < beta, 0, some) for some in each for beta in THRESHOLDS], 1)
    lengths = torch.tensor(LENGTHS, device=canvas.device)
    moves = (lengths[:, None, None] * (cut * found.deviation)[:, None]).flatten(1, 2)  # (N, tried, M)
    progress, chosen = Progress("directed", "pictures", len(moves)), []
    for row, tried in enumerate(moves):
        first, losses = canvas(start.rows([row])), []
        for some in tried.split(AT_ONCE):
            drawn = canvas(start.rows([row] * len(some))._replace(channels=some))
            score = judge.score(drawn, wanted[row].expand(len(some), -1))
            losses.append(1 - score + identity * l2(drawn, first.expand_as(drawn)))
        chosen.append(tried[torch.cat(losses).argmin()])
        progress(row + 1)
    return start._replace(channels=torch.stack(chosen))
