"""From a run folder to the trained objective. A checkpoint holds tensors and the resolved configuration, never code."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainer import hub
from trainer.errors import UserError
from trainer.exports.files import MODELS, SETTINGS, is_program, settings
from trainer.strategies.parts import joined

STATES = ("state_dict", "ema", "optimizer_states")  # what ranks may hold in parts
KEYS = ("config", "state_dict", "ema", "images_seen")  # what a checkpoint of ours has

REMEDY = "give a run folder, an export, or the id of a model within reach"


def newest(path: str | Path) -> Path:
    """The newest whole checkpoint of a run folder or of its checkpoints folder; a .ckpt or an export is itself.

    A file cut short (a full disk, a broken copy) is passed over with a line that says so. What is no path here but may
    be a model of the Hugging Face hub, as me/model, is fetched from there once. UserError if none is left.
    """
    path = hub.snapshot(str(path), REMEDY) if hub.may_have(path) else Path(path).expanduser()
    path = next((path / name for name in MODELS if (path / name).is_file()), path)
    if path.is_file() or (path.is_dir() and path.suffix == ".ckpt"):
        if not _is_whole(path):
            raise UserError(
                f"checkpoint {path} is cut short or no checkpoint: give its run folder to take the newest whole one"
            )
        return path
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist{_runs_near(path)}")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    for candidate in sorted(folder.glob("*.ckpt"), reverse=True):  # kimg000012.800 and so on, best.ckpt last
        if _is_whole(candidate):
            return candidate
        print(f"{candidate} is cut short, taking an older one", file=sys.stderr, flush=True)
    raise UserError(f"no whole checkpoint in {folder}{_runs_near(folder)}")


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors mapped from disk. UserError if it is damaged or not one of ours.

    Of one that the ranks wrote in parts, whole tensors are put together when they are asked for.
    """
    path = Path(path)
    try:
        if path.name in MODELS:
            weights = {} if is_program(path) else load_file(path)
            checkpoint = {**settings(path), "state_dict": weights, "ema": {}}  # it has the EMA's weights
        else:
            files = sorted(path.glob("rank*.pt")) if path.is_dir() else [path]
            ranks = [torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files]
            checkpoint = ranks[0]
            if path.is_dir():
                checkpoint |= {key: joined([rank[key] for rank in ranks]) for key in STATES if key in checkpoint}
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist{_runs_near(Path(path))}") from error
    except UserError:
        raise
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged, or holds code instead of tensors: take another one") from error
    missing = [key for key in KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise UserError(f"{path} is not a checkpoint of a training run, it has no {missing[0]}: give a run folder")
    return checkpoint


def images_seen(path: str | Path) -> int:
    """How many images, over all ranks, the run had seen."""
    return int(read(path)["images_seen"])


def load(path: str | Path, device: str | torch.device = "cpu", as_saved: bool = False) -> Any:
    """The objective of a run folder, checkpoint or export, ready to sample: EMA weights, eval, no gradients.

    It is built from the configuration kept in the checkpoint, whatever the files in conf/ say today. as_saved: without
    the passes that change how its network is run. UserError if it cannot be read or its weights do not fit.
    """
    path = newest(path)
    checkpoint = read(path)
    try:
        objective: Any = instantiate(checkpoint["config"]["objective"], _convert_="all")
        objective.load_state_dict(dict(checkpoint["state_dict"]))
    except (InstantiationException, RuntimeError) as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"checkpoint {path} does not fit this version of the code or lacks one of yours: {reason}"
        ) from error
    parameters = dict(objective.named_parameters())
    with torch.no_grad():
        for key, average in checkpoint["ema"].items():
            parameters[key].copy_(average)
    objective.config = checkpoint["config"]
    objective.images_seen = checkpoint["images_seen"]
    objective.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    for layer in objective.modules():
        if type(layer) is nn.Linear:  # the layout in which few rows are quickest, and only one alone rounds otherwise
            layer.weight.data = layer.weight.t().contiguous().t()
    passes = [] if as_saved else checkpoint["config"].get("runtime")
    for prepare in instantiate(passes or [], _convert_="all"):
        network = prepare(objective.get_submodule(objective.draws_with))
        objective.set_submodule(objective.draws_with, network)
    return objective


def start_from(objective: Any, path: str | Path) -> None:
    """Gives an objective the weights of a run, averaged where they have an average; UserError if they do not fit."""
    path = newest(path)
    saved = read(path)
    try:
        objective.load_state_dict({**dict(saved["state_dict"]), **dict(saved["ema"])})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"init={path}: its weights are not those of this objective: {reason}") from error


def rank_file(rank: int, num_ranks: int) -> str:
    """Name of a rank's file in a checkpoint that all ranks write."""
    return f"rank{rank:05}-of-{num_ranks:05}.pt"


def _is_whole(path: Path) -> bool:
    """A zip archive ends with its table of contents: a file that was cut short has none."""
    if path.name in MODELS:
        return path.with_name(SETTINGS).is_file()
    if path.is_dir():
        files = [*path.glob("rank*.pt")]
        return bool(files) and len(files) == int(files[0].stem[-5:]) and all(map(_is_whole, files))
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _runs_near(path: Path) -> str:
    """'; the newest run is ...' under the first parent folder that exists, '' if there is none."""
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path())
    found = [each for pattern in ("checkpoints", "*/checkpoints", "*/*/checkpoints") for each in folder.glob(pattern)]
    runs = sorted(
        {each.parent for each in found if any(each.glob("*.ckpt"))} - {path}, key=lambda run: run.stat().st_mtime
    )
    return (
        f"; the newest run there is {runs[-1]}"
        if runs
        else ": give the folder that training printed, outputs/NAME/TIME"
    )
