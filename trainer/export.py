"""A trained run for others: python -m trainer.export checkpoint=RUN out=FOLDER formats=[safetensors,onnx]"""

from __future__ import annotations

import difflib
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.runs.export_files import (
    CARD,
    PICTURES,
    PROGRAMS,
    WEIGHTS,
    example,
    merged,
    published,
    write_settings,
    write_weights,
)

if TYPE_CHECKING:
    from trainer.exports.generator import Drawing

FORMATS = ("safetensors", *PROGRAMS)


@dataclass
class Export:
    """Keys of conf/export.yaml, which explains them."""

    checkpoint: str = MISSING
    out: str = MISSING
    formats: Any = MISSING
    include_text: bool = False
    prompts: list[str] = field(default_factory=list)
    license: str | None = None
    device: str | None = None
    allow: Any = None


def export(cfg: DictConfig) -> None:
    """Writes the formats, config.json and a model card into OUT; UserError in the end for a format that failed."""
    formats = parse_formats(cfg.formats)
    if "onnx" in formats:
        from trainer.exports import onnx

        onnx.require(*onnx.PACKAGES)

    from hydra.utils import get_class

    from trainer.runs import checkpoint

    path, out = checkpoint.newest(cfg.checkpoint), Path(cfg.out).expanduser()
    config = checkpoint.read(path)["config"]
    objective: Any = get_class(config["objective"]["_target_"])
    draws = bool(objective.draws_with)
    if not draws and formats != ["safetensors"]:
        raise UserError(f"{path} draws no images, so there is no program of it: leave formats out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        failed = drawing(cfg, path, out, formats) if draws else whole(path, out)
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error
    if failed:
        raise UserError("; ".join(failed))
    usable = (WEIGHTS, *(PROGRAMS[each] for each in PROGRAMS if each in formats)) if draws else ()
    prompts = shlex.quote(f"prompts=[{prompt}]") if draws and (prompt := example(config["text"]["encoder"])) else ""
    for name in (each for each in usable if (out / each).is_file()):
        print(f"python -m trainer.sample checkpoint={out / name} {prompts}".rstrip())


def drawing(cfg: DictConfig, path: Path, out: Path, formats: list[str]) -> list[str]:
    """Exports the network that draws, with its EMA weights; a line for each format that failed."""
    import torch

    from trainer.exports import card
    from trainer.exports.generator import Drawing
    from trainer.exports.making import Programs

    drawing = Drawing.of(path)
    settings, failed = drawing.settings(), []
    if wanted := [each for each in formats if each in PROGRAMS]:
        device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
        programs = Programs(drawing.generator.to(device), drawing.config, out, cfg.include_text)
        for each in wanted:
            programs.make(each)
        settings["programs"], failed = programs.entries, programs.failed
        drawing.to("cpu")
    settings = merged(out, settings)
    if "safetensors" in formats:
        drawing.save_weights(out)
        told(path, out, len(drawing.state_dict()))
    write_settings(out, settings)
    pictured(cfg, path, out, drawing)
    (out / CARD).write_text(card.of(settings, path, cfg.license, (out / PICTURES).is_file()).content, encoding="utf-8")
    return failed


def whole(path: Path, out: Path) -> list[str]:
    """Exports an objective that draws nothing, with its averaged weights."""
    from trainer.exports.generator import KEPT
    from trainer.runs import checkpoint

    saved = checkpoint.read(path)
    weights = {**dict(saved["state_dict"]), **dict(saved["ema"])}
    write_weights(out, weights)
    config = {key: saved["config"][key] for key in (*KEPT, "objective") if key in saved["config"]}
    write_settings(out, {key: saved[key] for key in ("images_seen", "global_step")} | {"config": published(config)})
    told(path, out, len(weights))
    return []


def told(path: Path, out: Path, count: int) -> None:
    size = (out / WEIGHTS).stat().st_size / 2**20
    print(f"{path} -> {out / WEIGHTS}: {count} tensors, {size:.1f} MiB", flush=True)


def pictured(cfg: DictConfig, path: Path, out: Path, drawing: Drawing) -> None:
    """OUT/samples.png of the prompts; without prompts it is the newest grid of the run, if there is one."""
    if cfg.prompts:
        from hydra.utils import instantiate

        from trainer.sampling.grids import grid
        from trainer.sampling.sampler import Sampler

        captions = [prompt for prompt in cfg.prompts for _ in range(4)]
        sampler = Sampler(drawing, instantiate(drawing.config["text"]["encoder"], _convert_="all"))
        grid(sampler(captions, [*range(4)] * len(cfg.prompts)), captions, 4).save(out / PICTURES)
        return
    for found in (path.parent.parent / "samples" / "latest.png", path.parent / PICTURES):
        if found.is_file() and not ((out / PICTURES).is_file() and found.samefile(out / PICTURES)):
            shutil.copy(found, out / PICTURES)
            return


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
