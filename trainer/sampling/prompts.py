"""What a command line says is to be drawn: texts, seeds, and names of files for them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from trainer.errors import UserError

MOST_SEEDS = 10_000_000


def parse_prompts(given: Any, file: str | None, key: str = "prompts") -> list[str]:
    """Distinct texts of a text or list, and of the lines of a file; UserError if there are none or one is empty.

    key: of the command line.
    """
    prompts = (
        [str(each).strip() for each in given] if isinstance(given, (ListConfig, list)) else [str(given or "").strip()]
    )
    if file:
        try:
            lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"prompts_file={file}: expected a UTF-8 text with a prompt a line ({error})") from error
        prompts = [each for each in [*prompts, *map(str.strip, lines)] if each]
    if not prompts or not all(prompts):
        raise UserError(f"{key}={given}: expected texts and none empty, as in '{key}=[a red apple, a blue car]'")
    return list(dict.fromkeys(prompts))


def parse_seeds(given: Any) -> list[int]:
    """Distinct seeds of 3, "0-7", "0,2,5-9" or a list of such; UserError for anything else."""
    parts = given if isinstance(given, (ListConfig, list)) else str(given).split(",")
    seeds: list[int] = []
    for part in map(str, parts):
        found = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or not -(2**63) <= first <= last < 2**63:
            raise UserError(f"seeds={given}: {part} is not a seed; expected 3, 0-7 or [0,2,5-9]")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise UserError(f"seeds={given}: more than {MOST_SEEDS:,} seeds; draw them in several commands")
        seeds += range(first, last + 1)
    if not seeds:
        raise UserError(f"seeds={given}: expected at least one, as in seeds=0-7")
    return list(dict.fromkeys(seeds))


def slug(prompt: str) -> str:
    """A file name that can be read; where it says less than the prompt, a checksum keeps two prompts apart."""
    letters = re.sub(r"\W+", "-", prompt)[:60].encode()[:180]  # file systems count bytes
    name = letters.decode(errors="ignore").strip("-")
    return name if name.replace("-", " ") == prompt else f"{name}-{zlib.crc32(prompt.encode()):08x}".lstrip("-")
