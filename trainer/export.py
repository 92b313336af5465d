"""A trained run for others: python -m trainer.export checkpoint=RUN out=FOLDER formats=[safetensors,onnx]"""

from __future__ import annotations

import difflib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.runs.export_files import PROGRAMS, WEIGHTS, example, task_of

FORMATS = ("safetensors", *PROGRAMS, "web")


@dataclass
class Export:
    """Keys of conf/export.yaml, which explains them."""

    checkpoint: str = MISSING
    out: str = MISSING
    formats: Any = MISSING
    include_text: bool | None = None
    ema: float | None = None
    prompts: list[str] = field(default_factory=list)
    license: str | None = None
    device: str | None = None
    allow: Any = None


def export(cfg: DictConfig) -> None:
    """Writes the formats, config.json and a model card into OUT; UserError in the end for a format that failed."""
    formats = parse_formats(cfg.formats)
    if "web" in formats:
        from trainer.exports import web

        web.parts()
        formats += [] if "onnx" in formats else ["onnx"]  # which the page has inside
        if cfg.include_text is False:
            raise UserError("formats=web with include_text=false: a page reads prompts; leave include_text out")
    if "onnx" in formats:
        from trainer.exports import onnx

        onnx.require(*onnx.PACKAGES)

    from hydra.utils import get_class

    from trainer.exports.folder import write_generator, write_weights_alone
    from trainer.runs import checkpoint, posthoc

    path, out = checkpoint.newest(cfg.checkpoint), Path(cfg.out).expanduser()
    if cfg.ema is not None:
        path = posthoc.averaged(path, cfg.ema)
    config = checkpoint.read(path)["config"]
    objective: Any = get_class(config["objective"]["_target_"])
    draws = bool(objective.draws_with)
    writes = not draws and "captioner" in config["objective"]
    if writes and {*formats} - {"safetensors", "onnx"}:
        raise UserError(f"{path} writes captions, and does so in ONNX alone: formats=[safetensors,onnx]")
    if not draws and not writes and formats != ["safetensors"]:
        raise UserError(f"{path} draws no images, so there is no program of it: leave formats out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        failed = write_generator(cfg, path, out, formats) if draws else write_weights_alone(path, out)
        if writes and "onnx" in formats:
            from trainer.exports.captioner import write_programs

            write_programs(path, out)
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error
    if failed:
        raise UserError("; ".join(failed))
    usable = (WEIGHTS, *(PROGRAMS[each] for each in PROGRAMS if each in formats)) if draws else ()
    prompts = shlex.quote(f"prompts=[{prompt}]") if draws and (prompt := example(config)) else ""
    prompts = f"source=photo.png {prompts}" if task_of(config["objective"]) else prompts
    for name in (each for each in usable if (out / each).is_file()):
        print(f"python -m trainer.sample checkpoint={out / name} {prompts}".rstrip())


def parse_formats(given: Any) -> list[str]:
    """Names of FORMATS, of one name or a list; UserError for others."""
    formats = [given] if isinstance(given, str) else list(given or [])
    for each in formats:
        if each not in FORMATS:
            nearest = difflib.get_close_matches(str(each), FORMATS, 1, cutoff=0)[0]
            raise UserError(f"formats: {each} is none of {', '.join(FORMATS)}; nearest: {nearest}")
    if not formats:
        raise UserError(f"formats={given}: expected some of {', '.join(FORMATS)}")
    return formats


def main() -> None:
    entry(export, "export", Export)


if __name__ == "__main__":
    main()
