"""Training: python -m trainer experiment=cgan. Composes the configuration, builds the objects it names, and fits."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer import run_folder
from trainer.config import Training, entry, reported


def train(cfg: DictConfig) -> None:
    import pytorch_lightning as pl  # here, so that --help and a mistyped key are answered at once
    from hydra.utils import instantiate

    folder = run_folder.make(cfg)
    resumed = cfg.resume or (folder if any(folder.glob("checkpoints/*.ckpt")) else None)  # a requeued job goes on by itself
    if resumed:
        run_folder.refuse_another(folder, cfg)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)

    # the trainer first: it knows whether the devices that were asked for are there
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback]
    loggers = [instantiate(logger) for logger in config["logger"].values() if logger]
    strategy = instantiate(config["strategy"])
    trainer = instantiate(config["trainer"], strategy=strategy, callbacks=callbacks, logger=loggers)

    text = instantiate(config["text"]["encoder"])
    data = instantiate(config["data"], text=text, _convert_="all")
    objective = instantiate(config["objective"], _convert_="all")
    objective.config = config
    if trainer.is_global_zero:
        run_folder.describe(folder, cfg)
    newest = None
    if resumed:
        from trainer import checkpoint

        newest = checkpoint.newest(resumed)
        data.start_at(checkpoint.images_seen(newest))
    trainer.fit(objective, datamodule=data, ckpt_path=newest)
    stopped_by = max((getattr(callback, "signal", 0) for callback in callbacks), default=0)
    if stopped_by:
        sys.exit(128 + stopped_by)


def main() -> None:
    with reported():
        run_folder.offer_saved_config(sys.argv)
    entry(train, "config", Training)


if __name__ == "__main__":
    main()
