"""A faster, smaller generator: python -m trainer.compress checkpoint=RUN compression=[fold,int8,compile]"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.evaluate import Measuring, check_split, data_of
from trainer.process.progress import say

if TYPE_CHECKING:
    from torch import nn

    from trainer.compression.search.candidate import Candidate
    from trainer.compression.search.quality import Quality
    from trainer.compression.search.targets import Point
    from trainer.sampling.pipeline import Pipeline

COSTS = {"latency": "latency", "throughput": "time an image", "size": "size"}
SEARCHED = "compression=[prune,low_rank,fold,int8]"  # of a search that names no passes


@dataclass
class Compression(Measuring):
    """Keys of conf/compress.yaml, which explains them."""

    passes: Any = field(default_factory=dict)
    reference: str | None = None
    target: str | None = None
    finetune_kimg: float = MISSING
    max_rounds: int = MISSING
    out: str | None = None
    calibration: int = MISSING
    batch_sizes: list[int] = field(default_factory=list)


def compress(cfg: DictConfig) -> None:
    """Applies the passes, or searches with them, measures what each gains and costs, and leaves a checkpoint."""
    from trainer.compression.comparison import page, table
    from trainer.compression.search.candidate import Bench, Candidate, calibration
    from trainer.compression.search.measurement import prove
    from trainer.compression.search.targets import Goal
    from trainer.compression.search.trials import MOVES, Trials
    from trainer.runs import results, run_folder
    from trainer.sampling.pipeline import load

    check_split(cfg.split)
    goal = Goal.parse(cfg.target) if cfg.target else None
    passes: dict[str, Any] = OmegaConf.to_container(cfg.passes, resolve=True)  # type: ignore[assignment]
    if goal and not passes.keys() & {*MOVES}:
        raise UserError(f"target={cfg.target}: a search needs {' or '.join(MOVES)} among its passes, as in {SEARCHED}")
    pipe = load(cfg.checkpoint, cfg.device, as_saved=True)
    if not pipe.objective.draws_with:
        raise UserError(f"checkpoint={cfg.checkpoint} draws no images: give a run that does, as of cgan or cvae")
    reference = compared_with(cfg, pipe)
    run = run_folder.of(pipe.path)
    out = made(cfg.out or run / "compressed" / (cfg.target or "-".join(passes)).replace(":", "-"))
    data = data_of(cfg, pipe)

    start = Candidate(drawn_by(pipe), runtime=tuple(pipe.config.get("runtime") or ()))
    first = Candidate(drawn_by(reference), runtime=tuple(reference.config.get("runtime") or ()))
    bench = Bench(pipe.path, calibration(pipe.sampler, data.train.captions, cfg.calibration), out / "finetune")
    quality = judge(cfg, pipe, reference, first, data)
    points: list[Point] = []
    if goal:
        best, points = Trials(bench, quality, passes, cfg.finetune_kimg).search(goal, start, cfg.max_rounds)
        steps = [start, best.candidate]
    else:
        steps = bench.steps(start, passes.items())
    save(out, pipe, start, steps[-1])

    candidates = {"teacher": first} if reference is not pipe else {}
    untouched = "student" if candidates and pipe.config.get("teacher") else start.name
    for step in steps:
        name = (step.name if goal else step.passes[-1]) if step.passes else untouched
        candidates[f"{name} ({len(candidates)})" if name in candidates else name] = step
    places, captions = (reference.path, out), data.fixed_captions(8)
    stages, found, images = prove(candidates, places, bench, quality, cfg.batch_sizes, captions)
    results.add(out, found)
    print(table.text(stages), *(f"{each.name}: {each.note}" for each in stages if each.note), sep="\n", flush=True)
    kind = goal.cost if goal else "throughput"
    names = [point.candidate.name if point.candidate.passes else untouched for point in points]
    tried = [page.Point(name, 1 / point.gains[kind], point.fd) for name, point in zip(names, points, strict=True)]
    words = {"cost": f"of the start's {COSTS[kind]}"} if points else {}
    protocol = found[0].protocol if found else {}
    file = page.write(out, f"{run.name}: {out.name}", stages, tried, images, captions, protocol, **words)
    print(f"{out}: a checkpoint for trainer.sample, trainer.evaluate and trainer.export; {file}")


def compared_with(cfg: DictConfig, pipe: Pipeline) -> Pipeline:
    """What `reference` names, a distilled run's teacher where that is still there, or the run itself."""
    from trainer.runs.teacher import require_alike
    from trainer.sampling.pipeline import load

    path = cfg.reference
    if not path and (taught := pipe.config.get("teacher")):
        path = taught if Path(taught).exists() else None
        if not path:
            say(f"the teacher {taught} is not there: compared with the run itself; reference=RUN names another")
    if not path:
        return pipe
    reference = load(path, cfg.device, as_saved=True)
    require_alike(pipe.config, reference.config, f"reference={path}")
    if not reference.objective.draws_with or reference.objective.latent_channels != pipe.objective.latent_channels:
        raise UserError(f"reference={path}: expected a run that draws, from {pipe.objective.latent_channels} latents")
    return reference


def made(folder: str | Path) -> Path:
    """The folder, without what an earlier proof left in it; UserError if it cannot be written or is a run's."""
    from trainer.compression.comparison import page
    from trainer.runs import export_files, results

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


def drawn_by(pipe: Pipeline) -> nn.Module:
    return pipe.objective.get_submodule(pipe.objective.draws_with)


def judge(cfg: DictConfig, pipe: Pipeline, reference: Pipeline, first: Candidate, data: Any) -> Quality:
    """What measures any network in the place of the run's own: at the same captions and seeds as the reference."""
    from trainer.compression.search.quality import Quality
    from trainer.evaluate import measures, protocol
    from trainer.evaluation.teacher_similarity import Likeness
    from trainer.exports.generator import Drawing

    quality = Quality(protocol(cfg, pipe, data), [], pipe.text, pipe.sampler.device)
    if cfg.metrics is not None and not len(cfg.metrics):
        return quality
    alone = copy(pipe)
    alone.objective = Drawing(drawn_by(pipe))  # what an autoencoder reconstructs is no matter here
    original = quality.sampler(first.ready())
    return replace(quality, measures=[*measures(cfg, alone, data), Likeness(original, reference.path.name)])


def save(out: Path, pipe: Pipeline, start: Candidate, end: Candidate) -> None:
    """OUT/model.safetensors and config.json: the generator as it is to be built, and what is done after loading it."""
    from trainer.compression import structure
    from trainer.exports import generator
    from trainer.runs import export_files

    node = structure.node(generator.node(pipe.objective), start.network, end.network)
    config = generator.configuration(pipe.config, node) | {"runtime": [*end.runtime]}
    settings = {"images_seen": pipe.objective.images_seen, "global_step": pipe.step, "config": config}
    try:
        export_files.write_weights(out, {f"generator.{name}": each for name, each in end.state().items()})
        export_files.write_settings(out, settings)
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error


def searched(arguments: list[str]) -> None:
    """Adds the passes of a search that names none."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if given.get("target", "null") not in ("", "null") and "compression" not in given:
        arguments.append(SEARCHED)
        if "passes.prune.ratio" not in given:
            arguments.append("passes.prune.ratio=0.25")  # smaller steps, with fine-tuning behind each


def main() -> None:
    entry(compress, "compress", Compression, searched)


if __name__ == "__main__":
    main()
