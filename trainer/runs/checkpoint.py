"""From a run folder to the trained objective.

A checkpoint holds tensors and the resolved configuration. Reading one runs no code of its author's: tensors are read
without pickled code, and the configuration may name only what `trainer.runs.allowlist` lets through.
"""

from __future__ import annotations

import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from trainer.errors import DamagedError, UserError
from trainer.pretrained import hub
from trainer.process.progress import say
from trainer.runs import allowlist, checkpoint_files, drawing, moved, run_folder
from trainer.runs.export_files import MODELS, PROGRAMS, WEIGHTS, is_program, settings
from trainer.strategies.parts import joined

STATES = ("state_dict", "ema", "posthoc", "optimizer_states")  # what ranks may hold in parts
OF_ONE_SAVE = ("save", "global_step", "images_seen")  # what the parts of one have in common
UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError, KeyError, ValueError),
    *(AttributeError, TypeError, IndexError),
)
KEYS = ("config", "state_dict", "ema", "images_seen")  # what a checkpoint of ours has

REMEDY = "give a run folder, an export, or the id of a model within reach, as hf:me/model"


def newest(path: str | Path) -> Path:
    """The file of `opened`."""
    return opened(path)[0]


def opened(path: str | Path, draws_only: bool = False) -> tuple[Path, dict[str, Any]]:
    """(file, content) of the newest whole checkpoint of a run folder or its checkpoints folder; a file is itself.

    One that is damaged (a full disk, a broken copy, a bad sector) is passed over with a line that says so. What is no
    path here but may be a model of the Hugging Face hub, as me/model, is fetched from there once; the names in the box
    (`boxed`) are weights that come with this package. Programs are taken
    only by the names of their files: they are code. UserError if none is left.
    """
    if str(path) in run_folder.boxed():
        path = run_folder.BOX / path if not Path(path).exists() else own(str(path))
    path = hub.snapshot(str(path), REMEDY) if hub.may_have(path) else Path(path).expanduser()
    if (path / WEIGHTS).is_file():
        path /= WEIGHTS
    elif programs := [name for name in PROGRAMS.values() if (path / name).is_file()]:
        raise UserError(
            f"{path} has no {WEIGHTS}, only {' and '.join(programs)}: a program is code, and runs where you name its "
            f"file, as {path / programs[0]}"
        )
    if path.is_file() or (path.is_dir() and path.suffix == ".ckpt"):
        return path, read(path, draws_only)
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist{_runs_near(path)}")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    passed_over: set[Path] = set()
    while candidate := next((each for each in _newest_first(folder) if each not in passed_over), None):
        passed_over.add(candidate)
        try:
            return candidate, _read(candidate, draws_only)
        except DamagedError as error:
            print(f"checkpoint {candidate} {error}: taking an older one", file=sys.stderr, flush=True)
        except UserError:
            if candidate.exists():
                raise  # else a run that is under way has replaced it since
    raise UserError(f"no whole checkpoint in {folder}{_runs_near(folder)}")


@cache
def own(name: str) -> str:
    """The path that the user has where the box has a model of that name; once, a line says so."""
    say(f"checkpoint={name}: what is here by this name, and not the model that comes with the package")
    return name


def read(path: str | Path, draws_only: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, checked by its checksums and mapped from disk.

    DamagedError, which names the whole ones beside it, if it is not as it was written or not one of ours. Of one that
    the ranks wrote in parts, whole tensors are put together when they are asked for.
    """
    path = Path(path)
    try:
        return _read(path, draws_only)
    except DamagedError as error:
        beside = [each.name for each in _newest_first(path.parent) if each != path and is_whole(each)]
        remedy = f"; whole beside it: {', '.join(beside[:3])}" if beside else ""
        raise DamagedError(f"checkpoint {path} {error}{remedy}") from error


def _read(path: Path, draws_only: bool = False) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist{_runs_near(path)}")
    if wrong := checkpoint_files.damage(path):
        raise DamagedError(wrong)
    try:
        if path.name in MODELS:
            weights = {} if is_program(path) else load_file(path)
            checkpoint = {**settings(path, draws_only), "state_dict": weights, "ema": {}}  # it has the EMA's weights
        else:
            files = checkpoint_files.files_of(path)
            ranks = [torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files]
            checkpoint = ranks[0]
            if len({tuple(rank.get(key) for key in OF_ONE_SAVE) for rank in ranks}) > 1:
                raise DamagedError("has parts of different saves")
            if path.is_dir():
                checkpoint |= {key: joined([rank[key] for rank in ranks]) for key in STATES if key in checkpoint}
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {path} does not exist{_runs_near(path)}") from error
    except UserError:
        raise
    except UNREADABLE as error:
        raise DamagedError("is damaged, or holds code instead of tensors") from error
    missing = [key for key in KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise DamagedError(f"is not a checkpoint of a training run, it has no {missing[0]}: give a run folder")
    if path.name not in MODELS:  # `settings` has done it there
        moved.require_known(checkpoint, path)
        if draws_only:
            checkpoint = drawing.alone(checkpoint)
        checkpoint["config"] = allowlist.check_config(checkpoint["config"], path)
    return checkpoint


def images_seen(path: str | Path) -> int:
    """How many images, over all ranks, the run had seen."""
    return int(read(path)["images_seen"])


def load(
    path: str | Path, device: str | torch.device = "cpu", as_saved: bool = False, draws_only: bool = False
) -> Any:
    """The objective of a run folder, checkpoint or export, ready to sample: EMA weights, eval, no gradients.

    It is built from the configuration kept in the checkpoint, whatever the files in conf/ say today. as_saved: without
    the passes that change how its network is run. draws_only: where a network draws, it alone, as a `Drawing`.
    `source` is the file that was read. UserError if it cannot be read or its weights do not fit.
    """
    path, checkpoint = opened(path, draws_only)
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
    objective.config, objective.source = checkpoint["config"], path
    objective.images_seen = checkpoint["images_seen"]
    objective.trained_steps = int(checkpoint.get("global_step", 0))
    ready_to_draw(objective.to(device))
    passes = [] if as_saved else checkpoint["config"].get("runtime")
    for prepare in instantiate(passes or [], _convert_="all"):
        network = prepare(objective.get_submodule(objective.draws_with))
        objective.set_submodule(objective.draws_with, network)
    return objective


def ready_to_draw(network: nn.Module) -> None:
    """Frozen, in eval mode, its weights as they lie where batches are drawn quickest."""
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in network.modules():
        if type(layer) is nn.Linear:  # the layout in which few rows are quickest, and only one alone rounds otherwise
            layer.weight.data = layer.weight.t().contiguous().t()


def start_from(objective: nn.Module, path: str | Path, draws_only: bool = False) -> dict[str, Any]:
    """Gives an objective the weights of a run, averaged where they have an average; its configuration.

    draws_only: those of the network that draws, as `generator`. UserError if they do not fit.
    """
    path, content = opened(path, draws_only)
    try:
        objective.load_state_dict({**dict(content["state_dict"]), **dict(content["ema"])})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"init={path}: its weights are not those of this objective: {reason}") from error
    return dict(content["config"])


def is_whole(path: Path) -> bool:
    try:
        _read(path)
    except UserError:
        return False
    return True


def _newest_first(folder: Path) -> list[Path]:
    """What may be a checkpoint in a folder; best.ckpt and whatever else has no number come last."""
    numbered = checkpoint_files.in_order(folder)
    return numbered[::-1] + sorted({*folder.glob("*.ckpt")} - {*numbered})


def _runs_near(path: Path) -> str:
    """'; the newest run is ...' under the first parent folder that exists, '' if there is none."""
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path())
    found = [each for pattern in ("checkpoints", "*/checkpoints", "*/*/checkpoints") for each in folder.glob(pattern)]
    runs = sorted(
        {each.parent for each in found if any(each.glob("*.ckpt"))} - {path}, key=lambda run: run.stat().st_mtime
    )
    where = ": give the folder that training printed, outputs/NAME/TIME"
    if runs:
        where = f"; the newest run there is {runs[-1]}"
    names = ", ".join(run_folder.boxed())
    return where + (f"; or one that comes with this package: {names}" if names and len(path.parts) == 1 else "")
