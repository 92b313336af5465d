"""Training goes on with a compressed generator, by the run's own objective, data and settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from trainer.compression import structure
from trainer.config import earlier
from trainer.config.command_line import quoted
from trainer.errors import UserError
from trainer.exports.generator import TrainedGenerator
from trainer.process.progress import say
from trainer.runs import checkpoint, export_files, run_folder

QUIET = [
    f"++{key}=null" for key in ("logger.wandb", *map("callbacks.{}".format, ("evaluation", "samples", "artifacts")))
]


def finetune(run: str | Path, network: nn.Module, kimg: float, folder: Path) -> nn.Module:
    """`network` in place of the generator of the run, trained for so many thousand images; its EMA weights.

    A run of its own in `folder`, started as `python -m trainer init=FOLDER/start`: the discriminator, or what else the
    objective has, begins as the run left it. UserError where the run's configuration is not beside its checkpoint.
    """
    path = checkpoint.newest(run)
    trained = next((each for each in path.parents if (each / run_folder.COMPOSED).is_file()), None)
    if trained is None:
        raise UserError(
            f"{path} can only be compressed without fine-tuning: {run_folder.COMPOSED} of its run is missing"
        )
    objective = checkpoint.load(path)
    if isinstance(objective, TrainedGenerator):  # compressed before: what trains with it is in its run
        objective = checkpoint.load(trained)
    original = deepcopy(objective.get_submodule(objective.draws_with))
    objective.set_submodule(objective.draws_with, deepcopy(network).cpu())

    start = folder / "start"
    shutil.rmtree(folder, ignore_errors=True)
    composed: Any = OmegaConf.create(earlier.saved_config(trained))
    config: Any = OmegaConf.create(objective.config)
    key = f"objective.{objective.draws_with}"
    written: Any = OmegaConf.to_container(OmegaConf.select(composed, key))  # with ${} in it, as the user wrote it
    built: Any = OmegaConf.to_container(OmegaConf.select(config, key))
    node = structure.node(built, original, network)
    OmegaConf.update(config, key, node, merge=False)
    if node["_target_"] == structure.REBUILT:
        first = written["network"] if written["_target_"] == structure.REBUILT else written
        OmegaConf.update(composed, key, node | {"network": first}, merge=False)
        if first is written:  # what others read of the node is within it now
            composed = OmegaConf.create(OmegaConf.to_yaml(composed).replace(f"${{{key}.", f"${{{key}.network."))
    try:
        start.mkdir(parents=True)
        (start / run_folder.COMPOSED).write_text(OmegaConf.to_yaml(composed), encoding="utf-8")
        export_files.write_weights(start, objective.state_dict())
        export_files.write_settings(
            start, {"images_seen": 0, "global_step": 0, "config": OmegaConf.to_container(config, resolve=True)}
        )
    except OSError as error:
        raise UserError(f"{start}: {error.strerror}; free space or choose another out=FOLDER") from error

    say(f"fine-tuning for {kimg:g} kimg in {folder / 'run'}")
    grown = [f"objective.{key}={value}" for key, value in getattr(objective, "grown", {}).items()]
    train([f"init={quoted(str(start))}", f"run_dir={quoted(str(folder / 'run'))}", f"kimg={kimg}", *grown, *QUIET])
    tuned = checkpoint.load(folder / "run", next(network.parameters()).device)
    return tuned.get_submodule(tuned.draws_with)


def train(arguments: list[str]) -> None:
    """`python -m trainer` with these arguments; shows its progress. UserError with its own words where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != run_folder.VARIABLE}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        ) as child,
    ):  # fmt: skip
        for line in child.stdout or ():
            if line.startswith("kimg "):
                print(f"  {line}", end="", flush=True)
        if child.wait():
            errors.seek(0)
            raise UserError(f"fine-tuning ended with code {child.returncode}: {' '.join(errors.read().split())[-300:]}")
