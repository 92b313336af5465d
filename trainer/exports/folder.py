"""The folder of an export: weights, programs, settings, pictures, a model card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from trainer.errors import UserError
from trainer.exports import card, web
from trainer.exports.generator import KEPT, TrainedGenerator
from trainer.exports.making import Programs
from trainer.runs import checkpoint
from trainer.runs.export_files import (
    CARD,
    INFER,
    PAGE,
    PICTURES,
    PRETRAINED,
    PROGRAMS,
    TOKENIZER,
    TOKENS,
    WEIGHTS,
    draws_alone,
    example,
    merge_programs,
    with_tokenizer,
    without_paths,
    write_settings,
    write_weights,
)
from trainer.sampling.grids import grid
from trainer.sampling.sampler import Sampler


def write_generator(cfg: DictConfig, path: Path, out: Path, formats: list[str]) -> list[str]:
    """Exports the network that draws, with its EMA weights; a line for each format that failed."""
    drawing = TrainedGenerator.of(path)
    settings, failed = drawing.settings(), []
    if wanted := [each for each in formats if each in PROGRAMS]:
        device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
        with_text = cfg.include_text
        if with_text is None:  # an ONNX program is for who has nothing else
            with_text = "onnx" in wanted and drawing.config["text"]["encoder"]["_target_"] == PRETRAINED
        programs = Programs(drawing.generator.to(device), drawing.config, out, with_text)
        for each in wanted:
            programs.make(each)
        settings["programs"], failed = programs.entries, programs.failed
        drawing.to("cpu")
    settings["config"] = with_tokenizer(settings["config"], out)
    if entry := settings.get("programs", {}).get(PROGRAMS["onnx"]):
        failed += write_beside_onnx(cfg, out, settings["config"], entry, "web" in formats)
    settings = merge_programs(out, settings)
    if "safetensors" in formats:
        drawing.save_weights(out)
        print_size(path, out, len(drawing.state_dict()))
    write_settings(out, settings)
    write_pictures(cfg, path, out, drawing)
    written = card.model_card(settings, path, cfg.license, (out / PICTURES).is_file(), (out / PAGE).is_file())
    (out / CARD).write_text(written.content, encoding="utf-8")
    return failed


def write_beside_onnx(
    cfg: DictConfig, out: Path, config: dict[str, Any], entry: dict[str, Any], page: bool
) -> list[str]:
    """infer.py and, if asked for, the page, of a model.onnx that reads ids; a line for a page that cannot be made."""
    for each in (INFER, PAGE):
        (out / each).unlink(missing_ok=True)  # of an earlier export
    encoder = config["text"]["encoder"]
    if "source" in entry["inputs"] and (page or not draws_alone(entry)):
        return [f"{PAGE}: it draws from prompts alone, and this model starts from a picture"] if page else []
    if not entry["encoder"] and encoder["_target_"] != TOKENS:
        return [f"{PAGE}: this model reads no {TOKENIZER}, by which a page reads prompts"] if page else []
    shutil.copy(Path(__file__).with_name(INFER), out)
    if page:
        path = web.write(out, config, entry, list(cfg.prompts) or [example(config)])
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; a browser opens it, without a server", flush=True)
    return []


def write_weights_alone(path: Path, out: Path) -> list[str]:
    """Exports an objective that draws nothing, with its averaged weights."""
    saved = checkpoint.read(path)
    weights = {**dict(saved["state_dict"]), **dict(saved["ema"])}
    write_weights(out, weights)
    config = {key: saved["config"][key] for key in (*KEPT, "objective") if key in saved["config"]}
    write_settings(out, {key: saved[key] for key in ("images_seen", "global_step")} | {"config": without_paths(config)})
    print_size(path, out, len(weights))
    return []


def print_size(path: Path, out: Path, count: int) -> None:
    size = (out / WEIGHTS).stat().st_size / 2**20
    print(f"{path} -> {out / WEIGHTS}: {count} tensors, {size:.1f} MiB", flush=True)


def write_pictures(cfg: DictConfig, path: Path, out: Path, drawing: TrainedGenerator) -> None:
    """OUT/samples.png of the prompts; without prompts it is the newest grid of the run, if there is one."""
    if cfg.prompts:
        captions = [prompt for prompt in cfg.prompts for _ in range(4)]
        sampler = Sampler(drawing, instantiate(drawing.config["text"]["encoder"], _convert_="all"))
        if sampler.needs_source:
            raise UserError("prompts: this model starts from a picture; leave them out, the grid is that of its run")
        grid(sampler(captions, [*range(4)] * len(cfg.prompts)), captions, 4).save(out / PICTURES)
        return
    for found in (path.parent.parent / "samples" / "latest.png", path.parent / PICTURES):
        if found.is_file() and not ((out / PICTURES).is_file() and found.samefile(out / PICTURES)):
            shutil.copy(found, out / PICTURES)
            return
