"""One picture edited: itself, what the generator makes of it, the edit, and a strip of strengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trainer.backbones import clip as clips
from trainer.backbones import effnet_lite
from trainer.data.build import fit
from trainer.editing import captions
from trainer.editing.canvas import Canvas
from trainer.editing.directions import directed, effects
from trainer.editing.edits import Judge, optimized, replaced
from trainer.editing.inversion import invert
from trainer.errors import UserError
from trainer.losses.perceptual import Perceptual
from trainer.metrics.similarity import psnr
from trainer.runs.trained import Matcher
from trainer.sampling import sources
from trainer.sampling.files import Origin, make_folder, refuse_others, save
from trainer.sampling.grids import grid
from trainer.sampling.pipeline import picture
from trainer.sampling.sampler import as_pixels

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline

STRIP = (0, 0.25, 0.5, 0.75, 1, 1.25)  # times the strength


@dataclass
class Edited:
    """Pictures (3, H, W) uint8, those of the strip (M, 3, H, W); scores before and after, where a judge gave them.

    caption: of the source, as given, or the nearest one of the data.
    """

    source: Tensor
    inversion: Tensor
    edit: Tensor
    strip: Tensor
    strengths: list[float]
    scores: tuple[float, float] | None
    caption: str

    @property
    def psnr(self) -> float:
        """Of the inversion, in dB."""
        return float(psnr(self.inversion[None], self.source[None]))


def judge_of(matcher: str | None, clip: str | None, device: torch.device) -> Judge | None:
    """What says how well a picture fits a text: a matching run, or a CLIP by hub id or folder."""
    if matcher:
        found = Matcher(matcher, device)
        return Judge(found.vectors, found.captions, found.sha256)
    if clip:
        model = clips.load(clip).to(device)
        return Judge(model.vectors, model.text, model.sha256)
    return None


def edited(
    pipe: Pipeline,
    source: Path,
    caption: str,
    prompt: str,
    judge: Judge | None,
    strength: float = 1.0,
    identity: float = 1.0,
    seed: int = 0,
    perceptual: bool = True,
    how: str = "optimizer",
) -> Edited:
    """The picture in a file, which `caption` describes, as `prompt` says.

    Without a caption it is the one of the data that the judge finds nearest to the picture, told in a line. how:
    `optimizer`, or `directions`, which leave the caption and move channels of the style alone. UserError for a
    generator that cannot be led so, and for one that reads no captions where there is no judge.
    """
    wordless = getattr(pipe.text, "wordless", False)
    if wordless and judge is None:
        raise UserError(f"{pipe.path} reads no captions, so that a judge of pictures has to: matcher=RUN, or clip=ID")
    canvas = Canvas(pipe.objective, pipe.text)
    image = np.asarray(fit(sources.opened(source, "source"), canvas.resolution)).copy()
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    wanted = pixels[None].to(canvas.device).float().div(127.5).sub(1)
    known: list[str] = []  # captions of the data
    if judge is not None and (how == "directions" or not (caption or wordless)):
        known = captions.of_data(pipe)
        if not caption:
            caption = captions.nearest(judge, wanted, known)
            print(f"caption: {caption} (the nearest of {len(known):,})")
    distance = Perceptual(effnet_lite.load) if perceptual else None
    start = invert(canvas, wanted, [caption], distance, seed)
    if judge is not None and how == "directions":
        found = effects(canvas, judge, known, pipe.path)
        end = directed(canvas, start, [caption], [prompt], judge, found, identity)
    else:
        end = start if wordless else replaced(canvas, start, [prompt])
        if judge is not None:
            end = optimized(canvas, end, [prompt], judge, identity)
    strengths = [each * strength for each in STRIP]
    with torch.no_grad():
        drawn = canvas(start.towards(end, torch.tensor([*strengths, strength], device=canvas.device)))
        scores = None
        if judge is not None:
            before, after = judge.score(drawn[[0, -1]], judge.captions([prompt]).expand(2, -1)).tolist()
            scores = before, after
    made = as_pixels(drawn).cpu()
    return Edited(pixels, made[0], made[-1], made[:-1], strengths, scores, caption)


def write(found: Edited, prompt: str, folder: Path, origin: Origin) -> None:
    """source.png, inversion.png, edit.png and strip.png in a folder, and a line with the figures."""
    names = ("source", "inversion", "edit", "strip")
    files = {name: folder / f"{name}.png" for name in names}
    refuse_others(files.values(), origin)
    make_folder(folder)
    for name in names[:-1]:
        save(picture(getattr(found, name)), files[name], origin)
    labels = ["source", *(f"{each:g}" for each in found.strengths)]
    shown = torch.cat([found.source[None], found.strip])
    save(grid(shown, labels, len(labels)), files["strip"], origin)
    print("\n".join(str(file) for file in files.values()))
    judged = ""
    if found.scores:
        judged = f'; score of "{prompt}" {found.scores[0]:.3f} before, {found.scores[1]:.3f} after'
    print(f"inversion {found.psnr:.1f} dB{judged}")
