"""A faster, smaller generator: python -m trainer.compress checkpoint=RUN compression=[fold,int8,compile]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.config.entry import entry
from trainer.errors import UserError
from trainer.evaluate import Measuring

if TYPE_CHECKING:
    from trainer.compression.search.targets import Point

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
    from trainer.compression.comparison.baselines import baselines, exact, in_onnxruntime
    from trainer.compression.search.candidate import Bench, Candidate, calibration
    from trainer.compression.search.measurement import prove
    from trainer.compression.search.outcome import empty_folder, generator_of, quality_of, reference_of, save
    from trainer.compression.search.targets import Goal
    from trainer.compression.search.trials import MOVES, Trials
    from trainer.evaluation.measures import check_split, data_of
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
    reference = reference_of(cfg, pipe)
    run = run_folder.of(pipe.path)
    out = empty_folder(cfg.out or run / "compressed" / (cfg.target or "-".join(passes)).replace(":", "-"))
    data = data_of(cfg, pipe)

    start = Candidate(generator_of(pipe), runtime=tuple(pipe.config.get("runtime") or ()))
    first = Candidate(generator_of(reference), runtime=tuple(reference.config.get("runtime") or ()))
    bench = Bench(pipe.path, calibration(pipe.sampler, data.train.captions, cfg.calibration), out / "finetune")
    quality = quality_of(cfg, pipe, reference, first, data)
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
    lossless = reference is pipe and passes == exact(passes)  # the stages themselves are the baselines
    (one, *_), (*_, end) = candidates, candidates
    beside = {end: in_onnxruntime(bench, end, steps[-1])}
    beside |= {} if lossless else {one: baselines(bench, one, first, passes)}
    stages, found, images = prove(candidates, places, bench, quality, cfg.batch_sizes, captions, beside)
    results.add(out, found)
    notes = [f"{each.name}: {each.note}" for each in stages if each.note]
    gain = table.over_the_best(stages)
    notes += [f"each at its best: {gain[1]}"] if gain else []
    print(table.text(stages), *notes, sep="\n", flush=True)
    kind = goal.cost if goal else "throughput"
    names = [point.candidate.name if point.candidate.passes else untouched for point in points]
    tried = [page.Point(name, 1 / point.gains[kind], point.fd) for name, point in zip(names, points, strict=True)]
    words = {"cost": f"of the start's {COSTS[kind]}"} if points else {}
    protocol = found[0].protocol if found else {}
    file = page.write(out, f"{run.name}: {out.name}", stages, tried, images, captions, protocol, **words)
    print(f"{out}: a checkpoint for trainer.sample, trainer.evaluate and trainer.export; {file}")


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
