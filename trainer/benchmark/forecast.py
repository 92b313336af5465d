"""What a run would cost on GPUs that are not here: memory, bytes, time, price, by strategy and number of GPUs."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig

from trainer.benchmark import cards, faults, held, programs
from trainer.benchmark.cards import Card
from trainer.benchmark.count import Work
from trainer.benchmark.model import STRATEGIES
from trainer.benchmark.timeline import Cluster, Jitter, simulate
from trainer.errors import UserError

STEPS = 30  # that are simulated for a row
ENOUGH = 0.9  # of the best throughput: from there on a larger batch buys little
ALIKE = 0.02  # strategies this close in time are equal, and the simplest is named


def forecast(cfg: DictConfig, work: Work, card: Card, source: str) -> dict[str, Any]:
    """Rows by number of GPUs and strategy at `images_per_gpu` (default: `data.batch_size`), and for each number of GPUs
    what is recommended of all strategies and of batches of twice, four times, ... as many images."""
    images = cfg.images_per_gpu or cfg.data.batch_size
    rows, advice = [], []
    for gpus in cfg.forecast:
        here = [row(cfg, work, card, strategy, gpus, images) for strategy in strategies(gpus)]
        rows += here
        advice.append(recommend(cfg, work, card, gpus, images, here))
    return {
        "name": cfg.name,
        "gpu": cfg.gpu,
        "source": source,
        "card": vars(card),
        "faults": dict(cfg.faults),
        "kimg": cfg.kimg,
        "price_gpu_hour": cfg.price,
        "precision": str(cfg.trainer.precision),
        "gflop_image": sum(p.share * sum(p.flops) for f in work.phases.values() for p in f.forward + f.backward) / 1e9,
        "weights": sum(network.bytes // 4 for network in work.networks.values()),
        "rows": rows,
        "advice": advice,
    }


def strategies(gpus: int) -> tuple[str, ...]:
    return STRATEGIES if gpus > 1 else ("single",)


def row(cfg: DictConfig, work: Work, card: Card, strategy: str, gpus: int, images: int) -> dict[str, Any]:
    """One strategy on so many GPUs, with so many images on each."""
    parts = held.held(strategy, work, gpus, images)
    step_s, waited = step(cfg, work, card, strategy, gpus, images)
    work_s = math.ceil(1000 * cfg.kimg / (images * gpus)) * step_s
    state = sum(n.bytes * (1 + n.moments + n.averaged) for n in work.networks.values())
    write_s = state / (1e9 * cfg.faults.write_gb_s)
    mtbf_s, restart_s = 3600 * cfg.faults.mtbf_hours / gpus, 60 * cfg.faults.restart_minutes
    interval_s = min(faults.young(write_s, mtbf_s), work_s)
    total_s = faults.daly(work_s, interval_s, write_s, restart_s, mtbf_s)
    return {
        "strategy": strategy,
        "gpus": gpus,
        "images_per_gpu": images,
        "memory": parts,
        "memory_bytes": held.needed(parts),
        "fits": held.needed(parts) <= 1e9 * card.memory_gb,
        "sent_bytes": programs.bytes_sent(strategy, work, gpus) if gpus > 1 else 0.0,
        "step_s": step_s,
        "waited": waited,
        "images_per_second": images * gpus / step_s,
        "work_hours": work_s / 3600,
        "hours": total_s / 3600,
        "price": cfg.price and cfg.price * gpus * total_s / 3600,
        "read_bytes": 1000 * cfg.kimg * work.read,
        "read_bytes_s": images * gpus * work.read / step_s,
        "checkpoint": {"bytes": state, "write_s": write_s, "interval_s": interval_s, "mtbf_s": mtbf_s},
    }


def step(cfg: DictConfig, work: Work, card: Card, strategy: str, gpus: int, images: int) -> tuple[float, float]:
    """Mean seconds of a simulated step, and the share of it in which a rank waits."""
    compute = {
        name: (
            programs.seconds(phase.forward, card, images, work.accumulate),
            programs.seconds(phase.backward, card, images, work.accumulate),
            programs.stepping(work, name, strategy, gpus, card),
        )
        for name, phase in work.phases.items()
    }
    crowd = card.crowd(gpus)
    compute = {name: (crowd * f, crowd * b, crowd * s) for name, (f, b, s) in compute.items()}
    program = programs.program(strategy, work, compute, card.links(), gpus, card.ahead)
    faulty = cfg.faults
    load_s = images / faulty.load_images_s if faulty.load_images_s else 0.0
    cluster = Cluster(gpus, Jitter(faulty.jitter, faulty.stragglers, faulty.slower), load_s, seed=cfg.seed)
    done = simulate(program, cluster, STEPS)
    return float(done.step_s.mean()), done.waited


def recommend(
    cfg: DictConfig, work: Work, card: Card, gpus: int, images: int, rows: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Of what fits: the fewest images a GPU that reach `ENOUGH` of the best throughput, and the simplest strategy among
    the fastest with them; the interval of checkpoints whose simulated runs end soonest. None where nothing fits."""
    tried = [each for each in rows if each["fits"]]
    while any(each["fits"] for each in rows) and images < 2**14:
        images *= 2
        rows = [row(cfg, work, card, strategy, gpus, images) for strategy in strategies(gpus)]
        tried += [each for each in rows if each["fits"]]
    if not tried:
        return None
    best = max(each["images_per_second"] for each in tried)
    fewest = min(each["images_per_gpu"] for each in tried if each["images_per_second"] >= ENOUGH * best)
    there = [each for each in tried if each["images_per_gpu"] == fewest]
    fastest = max(each["images_per_second"] for each in there)
    chosen = next(each for each in there if each["images_per_second"] >= (1 - ALIKE) * fastest)
    saving = chosen["checkpoint"]
    work_s = 3600 * chosen["work_hours"]
    restart_s = 60 * cfg.faults.restart_minutes
    interval_s, total_s = faults.best_interval(work_s, saving["write_s"], restart_s, saving["mtbf_s"], cfg.seed)
    return chosen | {"best_interval_s": interval_s, "simulated_hours": total_s / 3600}


def check(cfg: DictConfig) -> None:
    """UserError for what cannot be forecast, before anything is counted."""
    given: Any = cfg.forecast
    if isinstance(given, (int, str)) or not all(isinstance(gpus, int) and gpus > 0 for gpus in given) or not given:
        raise UserError(f"forecast={given}: expected a list of numbers of GPUs, as forecast=[8,64,1024]")
    if cfg.price is not None and cfg.price <= 0:
        raise UserError(f"price={cfg.price}: expected the price of a GPU for an hour, in whatever currency, above 0")
    if cfg.images_per_gpu is not None and cfg.images_per_gpu < 1:
        raise UserError(f"images_per_gpu={cfg.images_per_gpu}: expected at least 1")
    for key, value in cfg.faults.items():
        if value is None:
            continue
        if value < 0 or (value == 0 and key in ("mtbf_hours", "write_gb_s", "load_images_s")):
            raise UserError(f"faults.{key}={value}: expected {'more than' if value == 0 else 'at least'} 0")
    if cfg.gpu != "measured":
        cards.chosen(cfg.gpu, dict(cfg.cluster))
