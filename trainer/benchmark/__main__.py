"""What a run costs: python -m trainer.benchmark +experiment=cgan strategy=ddp ranks=[1,2]

Before it runs: python -m trainer.benchmark +experiment=cgan forecast=[8,64,1024] price=2.5
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from trainer.config.entry import Training, entry
from trainer.errors import UserError
from trainer.process.ranks import rank


@dataclass
class Cluster:
    """Numbers of a card and its links that are other than those of its data sheet (`trainer.benchmark.cards.Card`)."""

    tflops_16: float | None = None
    tflops_tf32: float | None = None
    tflops_32: float | None = None
    memory_gb: float | None = None
    memory_gb_s: float | None = None
    link_gb_s: float | None = None
    network_gbit_s: float | None = None
    per_node: int | None = None
    of_peak: float | None = None
    of_memory: float | None = None
    of_link: float | None = None
    launch_us: float | None = None
    intra_us: float | None = None
    inter_us: float | None = None


@dataclass
class Faults:
    """What goes wrong in a cluster, and what it costs.

    mtbf_hours: between two failures of one GPU or what belongs to it, on the mean. Llama 3 (2024, section 3.3.4) counts
    419 interruptions in 54 days on 16,384 H100: 50,700 hours. restart_minutes: until the job computes again.
    write_gb_s: at which a checkpoint is written, all ranks waiting. jitter: standard deviation of a rank's computing.
    stragglers: share of the ranks that are slower for good, by `slower`. load_images_s: images/s that the loader of a
    rank makes, None: as many as are asked for.
    """

    mtbf_hours: float = 50_700
    restart_minutes: float = 5.0
    write_gb_s: float = 1.0
    jitter: float = 0.02
    stragglers: float = 0.0
    slower: float = 0.1
    load_images_s: float | None = None


@dataclass
class Benchmark(Training):
    """Keys of a training run, of the measurement, and of the forecast."""

    steps: int = 50
    repeats: int = 5
    ranks: Any = None
    bare: bool = True
    probe: bool = True
    out: str = ""
    forecast: Any = None
    gpu: str = "H100"
    price: float | None = None
    cluster: Cluster = field(default_factory=Cluster)
    faults: Faults = field(default_factory=Faults)


def benchmark(cfg: DictConfig) -> None:
    """Measures, or forecasts, prints the tables, and leaves them with figures and picture in `cfg.out`."""
    if cfg.forecast is not None:
        if rank() == 0:
            foretell(cfg)
        return
    if cfg.steps < 1 or cfg.repeats < 1:
        raise UserError(f"steps={cfg.steps}, repeats={cfg.repeats}: expected at least 1")
    from trainer.benchmark.measure import measure
    from trainer.benchmark.report import write
    from trainer.benchmark.scaling import scaling

    result: dict[str, Any] = scaling(cfg) if cfg.ranks else measure(cfg)
    if rank() == 0:
        write(cfg, result)


def foretell(cfg: DictConfig) -> None:
    """What the run would cost on `cfg.forecast` GPUs. Its step is counted, and computed for gpu=measured alone."""
    from trainer.benchmark import cards
    from trainer.benchmark.forecast import check, forecast

    check(cfg)
    from trainer.benchmark.count import count
    from trainer.benchmark.forecast_report import write

    if cfg.gpu == "measured":
        from trainer.benchmark.measured import measured

        work, found, source = measured(cfg, cfg.images_per_gpu or cfg.data.batch_size)
        card = cards.changed(found, dict(cfg.cluster))
    else:
        work, card, source = count(cfg), cards.chosen(cfg.gpu, dict(cfg.cluster)), f"{cfg.gpu} by its data sheet"
    write(cfg, forecast(cfg, work, card, source))


def main() -> None:
    entry(benchmark, "benchmark", Benchmark)


if __name__ == "__main__":
    main()
