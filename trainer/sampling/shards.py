"""Many images into tar files of a folder, by any number of processes on any number of nodes that share it.

Nobody talks to anybody: a process takes a file that is not there by a lock on .claims/NUMBER, which the kernel gives
back when the process dies, draws it under another name and renames it. Where a file system has no locks a file may be
drawn twice, with the same bytes. Started again, the same command draws what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.process.locks import acquire
from trainer.process.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.sampling.pipeline import Pipeline

SETTINGS = "sampling.json"
AT_ONCE = 256  # images in memory, as pixels
Row = tuple[int, str, int]  # line, prompt, seed
DrawRows = Callable[[Sequence[Row]], "Iterable[Tensor]"]


@dataclass(frozen=True)
class Plan:
    """Every line with every seed, `images_per_file` to a file: image l * len(seeds) + s is of line l and seed s.

    lines: number in the file and prompt; empty lines are left out, equal ones stay. seeds: None for each line's number.
    """

    lines: Sequence[tuple[int, str]]
    seeds: Sequence[int] | None
    images_per_file: int

    def __len__(self) -> int:
        return len(self.lines) * self.each

    @property
    def each(self) -> int:
        return 1 if self.seeds is None else len(self.seeds)

    @property
    def num_files(self) -> int:
        return -(-len(self) // self.images_per_file)

    def rows(self, file: int) -> Iterator[tuple[int, Row]]:
        """(number of the image, (line, prompt, seed)) of a file's images."""
        for index in range(file * self.images_per_file, min((file + 1) * self.images_per_file, len(self))):
            line, prompt = self.lines[index // self.each]
            seed = line if self.seeds is None else self.seeds[index % self.each]
            yield line * self.each + index % self.each, (line, prompt, seed)

    def settings(self) -> dict[str, Any]:
        words = json.dumps([*self.lines], ensure_ascii=False).encode()
        seeds = "line" if self.seeds is None else hashlib.sha256(json.dumps([*self.seeds]).encode()).hexdigest()[:16]
        prompts = hashlib.sha256(words).hexdigest()[:16]
        return {"images": len(self), "prompts": prompts, "seeds": seeds, "images_per_file": self.images_per_file}


def read_lines(file: str) -> list[tuple[int, str]]:
    """(number, text) of all lines that are not empty. UserError if there are none."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts_file={file}: expected a UTF-8 text with a prompt a line ({error})") from error
    found = [(number, line.strip()) for number, line in enumerate(lines) if line.strip()]
    if not found:
        raise UserError(f"prompts_file={file}: expected a prompt a line, all lines are empty")
    return found


def agree(folder: Path, settings: dict[str, Any]) -> None:
    """Writes what the folder is made with, once; UserError if it was begun with anything else."""
    file = folder / SETTINGS
    if not file.exists():
        mine = folder / f".{SETTINGS}-{socket.gethostname()}-{os.getpid()}"
        mine.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        try:
            os.link(mine, file)  # unlike a rename it takes nobody's place
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            mine.replace(file)
        mine.unlink(missing_ok=True)
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is no JSON: choose another out=FOLDER") from error
    for key in settings.keys() | begun.keys():
        was, now = begun.get(key), settings.get(key)
        if was != now:
            raise UserError(f"{folder} was begun with {key}={was}, this has {now}: choose another out=FOLDER")


def missing(plan: Plan, folder: Path) -> list[int]:
    """Numbers of the files that are not there."""
    there = {file.name for file in folder.glob("*.tar")}
    return [number for number in range(plan.num_files) if name(number) not in there]


def name(number: int) -> str:
    return f"{number:05}.tar"


def draw(
    pipe: Pipeline, plan: Plan, folder: Path, first: float = 0.0, tell: bool = True, drawn_of: DrawRows | None = None
) -> tuple[int, float]:
    """Draws files until all are there or others' work; how many images, and seconds.

    first: where among the missing ones to begin, as a part of them: processes then seldom meet. tell: on stderr.
    drawn_of: images of rows; None for those of their prompts and seeds.
    """
    claims = folder / ".claims"
    claims.mkdir(exist_ok=True)
    began, drawn = time.monotonic(), 0
    progress = Progress("drew", "images", len(plan)) if tell else lambda done: None
    before = -1
    while drawn > before:  # once more for the files of one that died meanwhile
        before, todo = drawn, missing(plan, folder)
        start = int(first * len(todo))
        for number in todo[start:] + todo[:start]:
            with claim(claims / f"{number:05}") as is_mine:
                if not is_mine or (folder / name(number)).exists():
                    continue
                others = (plan.num_files - len(missing(plan, folder))) * plan.images_per_file
                origin = pipe.sampler.conditioning.origin
                for count in write(plan, folder, number, drawn_of or partial(of_prompts, pipe), origin):
                    progress(min(others + count, len(plan)))
                drawn += count
    return drawn, time.monotonic() - began


@contextlib.contextmanager
def claim(file: Path) -> Iterator[bool]:
    """Whether this process, and no other that lives, has the claim."""
    with open(file, "w") as lock:
        taken = acquire(lock, wait=False)
        if taken is False:
            yield False
            return
        if taken:
            for left in file.parent.glob(f"{file.name}-*"):  # by one that was killed
                left.unlink(missing_ok=True)
        yield True


def of_prompts(pipe: Pipeline, rows: Sequence[Row]) -> Iterable[Tensor]:
    """Images (3, H, W) uint8 of rows."""
    return pipe.sampler([prompt for _, prompt, _ in rows], [seed for _, _, seed in rows]).cpu()


def write(
    plan: Plan, folder: Path, number: int, drawn_of: DrawRows, of_prompt: Callable[[str], dict[str, str]]
) -> Iterator[int]:
    """Draws a file; yields how many of its images are done. Its bytes hang on the plan and the pixels alone."""
    from trainer.sampling.pipeline import picture

    rows = [*plan.rows(number)]
    writing = folder / ".claims" / f"{number:05}-{socket.gethostname()}-{os.getpid()}"
    with open(writing, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                images = drawn_of([row for _, row in part])
                for (image, (line, prompt, seed)), pixels in zip(part, images, strict=True):
                    png = io.BytesIO()
                    picture(pixels).save(png, "PNG", compress_level=1)  # drawing should not wait for zlib
                    add(tar, f"{image:09}.png", png.getvalue())
                    origin = of_prompt(prompt) | {"seed": seed, "line": line}
                    add(tar, f"{image:09}.json", json.dumps(origin, ensure_ascii=False).encode())
                yield start + len(part)
        file.flush()
        os.fsync(file.fileno())
    writing.rename(folder / name(number))


def add(tar: tarfile.TarFile, member: str, content: bytes) -> None:
    """A member without time and owner."""
    info = tarfile.TarInfo(member)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
