"""Builds what a configuration names, and runs our loop on it for some steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from trainer.process import ranks

if TYPE_CHECKING:
    import torch

CALLBACKS = ("ema", "log", "throughput", "progress")  # grids, metrics and checkpoints come on top, as often as one asks


def build(cfg: DictConfig) -> tuple[Any, Any, dict[str, Any]]:
    """The objective, its data and the resolved configuration."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    pl.seed_everything(cfg.seed, verbose=False)
    data = instantiate(config["data"], text=instantiate(config["text"]["encoder"]), _convert_="all")
    data.prepare()
    objective = instantiate(config["objective"], _convert_="all")
    objective.config = config
    return objective, data, config


def fit(cfg: DictConfig, last: Any) -> Any:
    """Trains with the callbacks of every step and `last` behind them, for the `last.plan(objective)` batches it wants.

    On one device, or on the processes that torchrun or SLURM has started. Returns `last`.
    """
    from hydra.utils import instantiate

    objective, data, config = build(cfg)
    callbacks = [instantiate(config["callbacks"][name]) for name in CALLBACKS if config["callbacks"].get(name)]
    options: dict[str, Any] = {"max_steps": last.plan(objective), "logger": False, "callbacks": [*callbacks, last]}
    ranks.tell_lightning()
    options["num_nodes"], options["devices"] = ranks.launcher_size() or (1, 1)
    trainer = instantiate(config["trainer"], strategy=instantiate(config["strategy"]), **options)
    trainer.fit(objective, datamodule=data)
    return last


def device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def penalty_cycle(objective: Any) -> int:
    """Batches from one lazy penalty to the next, 1 where every batch costs the same."""
    penalties = ("r1", "r2", "gradient_penalty")
    return objective.penalty_interval if any(getattr(objective, name, 0) for name in penalties) else 1
