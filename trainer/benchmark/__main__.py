"""What a run costs: python -m trainer.benchmark +experiment=cgan strategy=ddp ranks=[1,2]"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from trainer.benchmark.model import Interconnect
from trainer.config.entry import Training, entry
from trainer.errors import UserError
from trainer.process.ranks import rank


@dataclass
class Prediction:
    """Ranks to predict for. On a CPU: the GPU whose compute is assumed, at a share `mfu` of its peak."""

    ranks: list[int] = field(default_factory=lambda: [8, 64, 1024])
    gpu: str = "H100"
    mfu: float = 0.3


@dataclass
class Benchmark(Training):
    """Keys of a training run, and of the measurement."""

    steps: int = 50
    repeats: int = 5
    ranks: Any = None
    bare: bool = True
    probe: bool = True
    out: str = ""
    interconnect: Interconnect = field(default_factory=Interconnect)
    predict: Prediction = field(default_factory=Prediction)


def benchmark(cfg: DictConfig) -> None:
    """Measures, prints the tables, and leaves them with figures and plot in `cfg.out`."""
    if cfg.steps < 1 or cfg.repeats < 1:
        raise UserError(f"steps={cfg.steps}, repeats={cfg.repeats}: expected at least 1")
    from trainer.benchmark.measure import measure
    from trainer.benchmark.peak import PEAK_TFLOPS
    from trainer.benchmark.report import write
    from trainer.benchmark.scaling import scaling

    if cfg.predict.gpu not in PEAK_TFLOPS:
        raise UserError(f"predict.gpu={cfg.predict.gpu}: expected one of {', '.join(PEAK_TFLOPS)}")
    result: dict[str, Any] = scaling(cfg) if cfg.ranks else measure(cfg)
    if rank() == 0:
        write(cfg, result)


def main() -> None:
    entry(benchmark, "benchmark", Benchmark)


if __name__ == "__main__":
    main()
