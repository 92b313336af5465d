"""Training: python -m trainer experiment=cgan. Composes the configuration, builds the objects it names, and fits."""

from __future__ import annotations

from trainer.process import signals

if __name__ == "__main__":  # before whatever takes time
    signals.arm()

import logging
import math
import os
import sys
import warnings
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer.config import earlier, per_gpu, signatures
from trainer.config.entry import Training, entry
from trainer.config.verbs import VERBS, first
from trainer.errors import UserError
from trainer.process import ranks
from trainer.process.progress import best_effort_output, say
from trainer.runs import allowlist, run_folder, run_lock


def start(cfg: DictConfig) -> float | None:
    """Trains here, or hands the run to what `launch` names; the best measurement, for a sweep to minimise."""
    allowlist.allow_own(str(node["_target_"]) for _, node in signatures.targets(cfg))  # its own checkpoints name them
    if not cfg.launch:
        return train(cfg)
    from hydra.utils import instantiate

    instantiate(cfg.launch, _convert_="all").submit(cfg)
    return None


def train(cfg: DictConfig) -> float | None:
    signals.begin()
    import torch  # here, so that --help and a mistyped key are answered at once

    for library in ("pytorch_lightning", "lightning_fabric"):  # its notices; our callbacks report
        logging.getLogger(library).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module=library)

    visible = torch.cuda.device_count()
    ranks.check_devices(visible, cfg.gpus_per_node, cfg.trainer.accelerator, cfg.trainer.get("devices", 1))
    ranks.check(cfg.nodes, cfg.gpus_per_node, visible)
    if cfg.trainer.get("precision") == "16-mixed" and cfg.trainer.accelerator == "cpu":  # Lightning would take bf16
        raise UserError("trainer.precision=16-mixed: of GPUs; a CPU has 32-true and bf16-mixed")
    ranks.tell_lightning()
    if cfg.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cfg.tf32

    folder = run_folder.make(cfg)
    run_folder.absolute_paths(cfg)
    with run_lock.exclusive(folder) if ranks.leads() else nullcontext():
        return fit(cfg, folder)


def fit(cfg: DictConfig, folder: Path) -> float | None:
    import pytorch_lightning as pl
    from hydra.utils import instantiate

    from trainer.report import ending
    from trainer.runs import checkpoint

    source = cfg.resume or run_folder.restart_of(folder)
    newest = checkpoint.newest(source) if source else None
    saved = checkpoint.read(newest) if newest else None
    count = ranks.count(cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1), cfg.trainer.accelerator)
    if cfg.images_per_gpu:
        line = per_gpu.apply(cfg, count, saved["config"]["data"]["batch_size"] if saved else None)
    else:
        line = per_gpu.idle(cfg, count)
    if line and ranks.leads():
        say(line)
    if saved:
        run_folder.refuse_another(saved["config"], cfg)

    config: Any = OmegaConf.to_container(cfg, resolve=True)
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback]
    loggers = [instantiate(logger) for logger in config["logger"].values() if logger]
    strategy = instantiate(config["strategy"])
    trainer = instantiate(config["trainer"], strategy=strategy, callbacks=callbacks, logger=loggers)

    launched = math.prod(ranks.launcher_size() or (1,))
    if launched > 1 and trainer.world_size == 1:
        raise UserError(
            f"strategy {type(strategy).__name__} is of one process, the launcher started {launched}; say strategy=ddp"
        )

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    text = instantiate(config["text"]["encoder"])
    data = instantiate(config["data"], text=text, _convert_="all")
    objective = strategy.build(config["objective"])
    objective.config = config
    if not saved:
        objective.begin()
    if trainer.is_global_zero:
        run_folder.describe(folder, cfg)
    if saved:
        data.start_at(saved["images_seen"])
        if trainer.is_global_zero and saved["images_seen"] >= 1000 * cfg.kimg:
            print(f"{newest} has seen the {cfg.kimg} kimg of its budget; a larger one is kimg=...")

    def stopped_by() -> int:
        return max((getattr(callback, "signal", 0) for callback in callbacks), default=0)

    with best_effort_output(), ending.record_ending(folder, stopped_by) if trainer.is_global_zero else nullcontext():
        trainer.fit(objective, datamodule=data, ckpt_path=newest)
    if stopped_by() and trainer.is_global_zero:  # from a child, Lightning would take it for a crash and kill the rest
        signals.requeue(stopped_by())
        sys.exit(128 + stopped_by())
    return next((callback.best for callback in callbacks if hasattr(callback, "best")), None)


def main() -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else its stack traces bury the line that names a dead rank
    if not sys.argv[1:]:
        print(first())
        return
    if sys.argv[1] == "train":
        del sys.argv[1]
    elif sys.argv[1] in VERBS:
        module = import_module(VERBS[sys.argv.pop(1)])
        sys.argv[0] = str(module.__file__)
        module.main()
        return
    entry(start, "config", Training, earlier.register_earlier_runs)


if __name__ == "__main__":
    main()
