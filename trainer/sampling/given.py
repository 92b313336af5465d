"""Pictures that bulk sampling starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from trainer.errors import UserError
from trainer.pretrained.weights import sha256
from trainer.sampling import shards, sources
from trainer.sampling.sampler import NO_SOURCE, Sampler

if TYPE_CHECKING:
    from trainer.sampling.pipeline import Pipeline


@dataclass(frozen=True)
class Given:
    """What a run of an image task starts from: a picture for each line, or one for all."""

    sampler: Sampler
    files: dict[int, Path]  # of lines
    mask: str | None

    @classmethod
    def of(cls, pipe: Pipeline, plan: shards.Plan, source: str | None, mask: str | None) -> Given | None:
        """None without a source. UserError where lines and pictures are not as many, or the first cannot be taken."""
        if source is None:
            if pipe.sampler.needs_source:
                raise UserError(NO_SOURCE)
            return None
        files = sources.files(source)
        if len(files) not in (1, len(plan.lines)):
            raise UserError(
                f"source={source} has {len(files)} pictures, prompts_file {len(plan.lines)} lines: expected a line a "
                "picture, in order of their names, or one picture"
            )
        sources.read(files[0], mask)  # before the folder remembers them: they may not be as they should
        paths = files * (len(plan.lines) // len(files))
        return cls(pipe.sampler, {line: path for (line, _), path in zip(plan.lines, paths, strict=True)}, mask)

    def draw(self, rows: Sequence[shards.Row]) -> list[Tensor]:
        """Images of rows."""
        given = [sources.read(self.files[line], self.mask) for line, _, _ in rows]
        return sources.redraw(self.sampler, given, [prompt for _, prompt, _ in rows], [seed for _, _, seed in rows])

    def settings(self) -> dict[str, str]:
        """What the images hang on, beside prompts and seeds."""
        paths = [*dict.fromkeys(self.files.values()), *([Path(self.mask).expanduser()] if self.mask else [])]
        return {"sources": hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()[:16]}
