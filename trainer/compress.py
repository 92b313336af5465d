"""A faster, smaller generator: python -m trainer.compress checkpoint=RUN compression=[fold,int8,compile]"""

from __future__ import annotations

import sys
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.config import entry
from trainer.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from trainer.pipeline import Pipeline
    from trainer.workshop.candidate import Candidate
    from trainer.workshop.quality import Quality
    from trainer.workshop.search import Point

COSTS = {"latency": "latency", "throughput": "time an image", "size": "size"}
SEARCHED = "compression=[prune,low_rank,fold,int8]"  # of a search that names no passes


@dataclass
class Compression:
    """Keys of conf/compress.yaml, which explains them."""

    checkpoint: str = MISSING
    passes: Any = field(default_factory=dict)
    reference: str | None = None
    target: str | None = None
    finetune_kimg: float = MISSING
    max_rounds: int = MISSING
    out: str | None = None
    calibration: int = MISSING
    backbone: Any = MISSING
    metrics: Any = None
    num_images: int = MISSING
    num_references: int = MISSING
    split: str = MISSING
    seed: int = 0
    matching: str | None = None
    clip: str | None = None
    lpips: Any = None
    batch_sizes: list[int] = field(default_factory=list)
    device: str | None = None


def compress(cfg: DictConfig) -> None:
    """Applies the passes, or searches with them, measures what each gains and costs, and leaves a checkpoint."""
    from hydra.utils import instantiate

    from trainer import figures
    from trainer.pipeline import load
    from trainer.proof import page, table
    from trainer.workshop.candidate import Bench, Candidate, calibration
    from trainer.workshop.prove import prove
    from trainer.workshop.search import Goal
    from trainer.workshop.trials import MOVES, Trials

    goal = Goal.parse(cfg.target) if cfg.target else None
    passes: dict[str, Any] = OmegaConf.to_container(cfg.passes, resolve=True)  # type: ignore[assignment]
    if goal and not passes.keys() & {*MOVES}:
        raise UserError(f"target={cfg.target}: a search needs {' or '.join(MOVES)} among its passes, as in {SEARCHED}")
    pipe = load(cfg.checkpoint, cfg.device)
    if not pipe.objective.draws_with:
        raise UserError(f"checkpoint={cfg.checkpoint} draws no images: give a run that does, as of cgan or cvae")
    teacher = cfg.reference or pipe.config.get("teacher")
    reference = load(teacher, cfg.device) if teacher else None
    run = pipe.path.parent.parent if pipe.path.parent.name == "checkpoints" else pipe.path.parent
    out = Path(cfg.out or run / "compressed" / (cfg.target or "-".join(passes)).replace(":", "-")).expanduser()
    data = instantiate(pipe.config["data"], text=pipe.text, _convert_="all")
    data.prepare()

    start = Candidate(drawn_by(pipe))
    bench = Bench(pipe.path, calibration(pipe.sampler, data.train.captions, cfg.calibration), out / "finetune")
    quality = judge(cfg, pipe, reference or pipe, data)
    points: list[Point] = []
    if goal:
        best, points = Trials(bench, quality, passes, cfg.finetune_kimg).search(goal, start, cfg.max_rounds)
        steps = [start, best.candidate]
    else:
        steps = bench.steps(start, passes.items())
    save(out, pipe, start, steps[-1])

    networks = [("teacher", deepcopy(drawn_by(reference)))] if reference else []
    networks += [(each.name if goal else (each.passes or (each.name,))[-1], each.ready()) for each in steps]
    stages, found = prove(networks, out, bench, quality, cfg.batch_sizes, data.fixed_captions(8)[0])
    figures.add(out, found)
    print(table.text(stages), *(f"{each.name}: {each.note}" for each in stages if each.note), sep="\n", flush=True)
    captions = data.fixed_captions(8)
    grids = {name: quality.sampler(network)(captions, range(len(captions))) for name, network in networks}
    kind = goal.cost if goal else "throughput"
    tried = [page.Point(point.candidate.name, 1 / point.gains[kind], point.fd) for point in points]
    words = {"cost": f"{COSTS[kind]}, as trained = 1"} if points else {}
    file = page.write(
        out, f"{run.name}: {out.name}", stages, tried, grids, captions, found[0].protocol if found else {}, **words
    )
    print(f"{out}: a checkpoint for trainer.sample, trainer.evaluate and trainer.export; {file}")


def drawn_by(pipe: Pipeline) -> nn.Module:
    return pipe.objective.get_submodule(pipe.objective.draws_with)


def judge(cfg: DictConfig, pipe: Pipeline, reference: Pipeline, data: Any) -> Quality:
    """What measures any network in the place of the run's own: at the same captions and seeds as the reference."""
    from trainer.evaluate import measures
    from trainer.evaluation.likeness import Likeness
    from trainer.evaluation.study import Study
    from trainer.objectives.drawing import Drawing
    from trainer.workshop.quality import Quality

    study = partial(
        Study, references=getattr(data, cfg.split), split=cfg.split, num_images=cfg.num_images,
        num_references=cfg.num_references, data=data.fingerprint, checkpoint=pipe.path.name,
        kimg=pipe.objective.images_seen / 1000, seed=cfg.seed,
    )  # fmt: skip
    quality = Quality(study, [], pipe.text, pipe.sampler.device)
    if cfg.metrics is not None and not len(cfg.metrics):
        return quality
    alone = copy(pipe)
    alone.objective = Drawing(drawn_by(pipe))  # what an autoencoder reconstructs is no matter here
    original = quality.sampler(deepcopy(drawn_by(reference)))
    return replace(quality, measures=[*measures(cfg, alone, data), Likeness(original, reference.path.name)])


def save(out: Path, pipe: Pipeline, start: Candidate, end: Candidate) -> None:
    """OUT/model.safetensors and config.json: the generator as it is to be built, and what is done after loading it."""
    from trainer.compression import structure
    from trainer.compression.runtime import stored
    from trainer.exports import files

    config = deepcopy(pipe.config)
    key = f"objective.{pipe.objective.draws_with}"
    node: Any = OmegaConf.to_container(OmegaConf.select(OmegaConf.create(config), key))
    built = structure.node(node, start.network, end.network)
    config["objective"] = {"_target_": files.DRAWING, "generator": built}
    config["runtime"] = [*config.get("runtime", []), *end.runtime]
    settings = {"images_seen": pipe.objective.images_seen, "global_step": pipe.step, "config": config}
    try:
        out.mkdir(parents=True, exist_ok=True)
        state = stored(end.network.state_dict(), list(end.runtime))
        files.write_weights(out, {f"generator.{name}": each for name, each in state.items()})
        files.write_settings(out, settings)
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error


def main() -> None:
    given = [argument.partition("=")[0] for argument in sys.argv]
    if "target" in given:
        more = (SEARCHED, "passes.prune.ratio=0.25")  # smaller steps, with fine-tuning behind each
        sys.argv += [each for each in more if each.partition("=")[0] not in given and "compression" not in given]
    entry(compress, "compress", Compression)


if __name__ == "__main__":
    main()
