"""What a compression starts from, is compared with, and leaves."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from trainer.compression import structure
from trainer.compression.comparison import page
from trainer.compression.search.candidate import Candidate
from trainer.compression.search.quality import Quality
from trainer.errors import UserError
from trainer.evaluation.measures import measures, studies
from trainer.evaluation.teacher_similarity import Likeness
from trainer.exports import generator
from trainer.exports.generator import TrainedGenerator
from trainer.exports.making import CAPTIONS
from trainer.exports.text import frozen
from trainer.networks.worded import WordedGenerator
from trainer.process.progress import say
from trainer.runs import export_files, results
from trainer.runs.drawing import draws
from trainer.runs.trained import require_alike
from trainer.sampling.pipeline import Pipeline, load
from trainer.sampling.sampler import Sampler


def reference_of(cfg: DictConfig, pipe: Pipeline) -> Pipeline:
    """What `reference` names, a distilled run's teacher where that is still there, or the run itself."""
    path = cfg.reference
    if not path and (taught := pipe.config.get("teacher")):
        path = taught if Path(taught).exists() else None
        if not path:
            say(f"the teacher {taught} is not there: compared with the run itself; reference=RUN names another")
    if not path:
        return pipe
    reference = load(path, cfg.device, as_saved=True)
    if reads_ids(pipe.config) and reference.config["text"]["encoder"]["_target_"] == export_files.PRETRAINED:
        reference = from_ids(reference, pipe)
    require_alike(pipe.config, reference.config, f"reference={path}")
    if not reference.objective.draws_with or reference.objective.latent_channels != pipe.objective.latent_channels:
        raise UserError(f"reference={path}: expected a run that draws, from {pipe.objective.latent_channels} latents")
    return reference


def reads_ids(config: dict[str, Any]) -> bool:
    """Whether a text encoder stands inside what draws, and a new caption costs what an image costs."""
    return config["text"]["encoder"]["_target_"] in (export_files.PIECES, export_files.TOKENS)


def from_ids(pipe: Pipeline, student: Pipeline) -> Pipeline:
    """A run with its frozen text encoder inside, too, so that both go from the ids of words to images.

    Not where their tokenizers differ: UserError.
    """
    encoder = instantiate(pipe.config["text"]["encoder"])
    module, tokenizer = frozen(encoder)
    theirs = tokenizer(list(CAPTIONS), truncation=True, max_length=encoder.max_tokens)["input_ids"]
    own = student.text(CAPTIONS)
    if theirs != [row[known].tolist() for row, known in zip(own.tokens, own.mask, strict=True)]:
        raise UserError(f"reference={pipe.path} reads captions as other tokens than {student.path}: give its teacher")
    drawing: Any = TrainedGenerator(WordedGenerator(module, generator_of(pipe)).eval().requires_grad_(False))
    drawing.config = pipe.config | {"text": student.config["text"]}
    drawing.images_seen, drawing.trained_steps = pipe.objective.images_seen, pipe.step
    return Pipeline(pipe.path, Sampler(drawing.to(pipe.sampler.device), student.text))


def empty_folder(folder: str | Path) -> Path:
    """The folder, without what an earlier proof left in it; UserError if it cannot be written or is a run's."""
    folder = Path(folder).expanduser()
    if (folder / "checkpoints").is_dir():
        raise UserError(f"out={folder} is the folder of a run: name another, or leave it out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (export_files.WEIGHTS, export_files.SETTINGS, results.FILE, *page.FILES):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"out={folder}: {error.strerror}; name a folder that can be written") from error
    return folder


def generator_of(pipe: Pipeline) -> nn.Module:
    return pipe.objective.get_submodule(pipe.objective.draws_with)


def quality_of(cfg: DictConfig, pipe: Pipeline, reference: Pipeline, first: Candidate, data: Any) -> Quality:
    """What measures any network in the place of the run's own: at the same captions and seeds as the reference."""
    quality = Quality(studies(cfg, pipe, data), [], pipe.text, pipe.sampler.device)
    if cfg.metrics is not None and not len(cfg.metrics):
        return quality
    alone = copy(pipe)
    alone.objective = TrainedGenerator(generator_of(pipe))  # what an autoencoder reconstructs is no matter here
    original = quality.sampler(first.ready())
    return replace(quality, measures=[*measures(cfg, alone, data), Likeness(original, reference.path.name)])


def save(out: Path, pipe: Pipeline, start: Candidate, end: Candidate) -> None:
    """OUT/model.safetensors and config.json: the generator as it is to be built, and what is done after loading it."""
    node = structure.node(draws(pipe.objective)["generator"], start.network, end.network)
    config = generator.configuration(pipe.config, node) | {"runtime": [*end.runtime]}
    settings = {"images_seen": pipe.objective.images_seen, "global_step": pipe.step, "config": config}
    try:
        export_files.write_weights(out, {f"generator.{name}": each for name, each in end.state().items()})
        export_files.write_settings(out, settings)
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error
