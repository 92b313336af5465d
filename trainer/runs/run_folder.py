"""The folder of a run: one for all its ranks and restarts, and it explains itself."""

from __future__ import annotations

import atexit
import os
import platform
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from trainer.errors import UserError
from trainer.process.progress import best_effort
from trainer.runs.moved import ADDED

VARIABLE = "TRAINER_RUN_DIR"  # children, other ranks and requeued jobs find the folder here
COMPOSED = "composed.yaml"
BOX = Path(__file__).parents[1] / "weights"  # a folder a model that comes with this package
STAMP = time.strftime("%Y-%m-%d_%H-%M-%S")
PLACE = ("run_dir", "resume", "launch", "nodes", "gpus_per_node", "images_per_gpu", "allow")  # of a start
EARLIER = ("init", "teacher", "tokenizer", "matcher")  # runs that it began from
FREE = (*PLACE, *EARLIER, "kimg", "tf32", "trainer", "callbacks", "logger", "strategy")  # may change as it goes on
FREE_ANYWHERE = ("num_workers", "cache_dir", "decoded", "classes", "accumulate")
DATA_PATH = "data.source.path"  # where they lie is no matter: a checkpoint has the fingerprint of its data
PATHS = (
    *(DATA_PATH, "data.cache_dir", "text.encoder.cache_dir", "init"),
    *("matcher", "objective.matcher", "objective.reward.pairs"),
)


def boxed() -> list[str]:
    """The names of the models in the box, which stand for a checkpoint where there is no such path."""
    return sorted(path.parent.name for path in BOX.glob("*/config.json"))


def default(name: str) -> str:
    """$TRAINER_RUN_DIR, else outputs/NAME/TIME; in a SLURM step of several tasks its number, which they share."""
    step = os.environ.get("SLURM_STEP_ID") if int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1 else None
    stamp = STAMP if step is None else f"slurm-{os.environ['SLURM_JOB_ID']}.{step}"
    return os.environ.get(VARIABLE) or f"outputs/{name}/{stamp}"


def make(cfg: DictConfig) -> Path:
    """Creates the folder that `cfg.run_dir` stands for, sets it there, and exports it."""
    folder = Path(cfg.run_dir)
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        folder = Path(hydra.sweep.dir, hydra.sweep.subdir)
        os.environ.setdefault("WANDB_RUN_GROUP", f"{cfg.name} sweep {Path(hydra.sweep.dir).name}")
        sys.argv[1:] = arguments()  # children of this job run this job, not the sweep
    elif OmegaConf.is_interpolation(cfg, "run_dir") and VARIABLE not in os.environ and "slurm-" not in folder.name:
        folder = agree_on_one(folder) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else claim_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir={folder}: {error.strerror}; name a folder that can be made") from error
    atexit.register(remove_if_empty, folder)  # where the parts could not be built
    os.environ[VARIABLE] = cfg.run_dir = str(folder)
    return folder


def absolute_paths(cfg: DictConfig) -> None:
    """Makes relative paths absolute that are there, so that the run goes on wherever it is gone on from."""
    for key in PATHS:
        given = OmegaConf.select(cfg, key)
        if isinstance(given, str) and Path(given).expanduser().exists():
            OmegaConf.update(cfg, key, os.path.abspath(Path(given).expanduser()))


def arguments() -> list[str]:
    """What follows `python -m trainer` for this run, also where it is one of a sweep."""
    hydra = HydraConfig.get()
    return list(hydra.overrides.task) if hydra.mode == RunMode.MULTIRUN else sys.argv[1:]


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def claim_new(folder: Path) -> Path:
    """`folder`, or with -2, -3 ... behind it where another run was quicker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
        else:
            return candidate


def agree_on_one(folder: Path) -> Path:
    """One folder for all ranks and restarts under torchrun, through its store."""
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if os.environ["RANK"] == "0" and not store.check([VARIABLE]):
        store.set(VARIABLE, str(claim_new(folder)))
    return Path(store.get(VARIABLE).decode())


def of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint file is of; an export is in its own.

    What is made of weights in the box goes to outputs/NAME: the package is no place to write to.
    """
    if checkpoint.parent.parent == BOX:
        return Path("outputs", checkpoint.parent.name)
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def describe(folder: Path, cfg: DictConfig) -> None:
    """Writes config.yaml (resolved) and composed.yaml (what a resume reads), adds this start to environment.txt."""
    command = shlex.join(["python", "-m", "trainer", *sys.argv[1:]])
    header = f"# {command}\n# continue: python -m trainer resume={folder}\n"
    replace_text(folder / "config.yaml", header + OmegaConf.to_yaml(cfg, resolve=True))
    replace_text(folder / COMPOSED, "# config.yaml before ${} is filled in\n" + OmegaConf.to_yaml(cfg))
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    start = [
        time.strftime("%Y-%m-%d %H:%M:%S %z"),
        f"command   {command}",
        f"folder    {Path.cwd()}",
        f"commit    {commit()}",
        f"machine   {platform.node()}, {platform.platform()}, {os.cpu_count()} CPUs",
        f"python    {platform.python_version()}",
        f"packages  {' '.join(packages)}",
    ]
    with best_effort(folder / "environment.txt"), open(folder / "environment.txt", "a", encoding="utf-8") as file:
        file.write("\n".join(start) + "\n\n")


def replace_text(file: Path, text: str) -> None:
    """The whole new file or the whole old one; on a full disk a run that goes on does so with the old one."""
    writing = file.with_name(f".{file.name}.tmp")
    with best_effort(file) if file.exists() else nullcontext():
        try:
            writing.write_text(text, encoding="utf-8")
            writing.replace(file)
        finally:
            writing.unlink(missing_ok=True)


def commit() -> str:
    """Commit of the checkout that this code runs from, '+ changes' where files differ from it."""
    here = Path(__file__).parents[2]
    if not (here / ".git").exists():
        return "no checkout"
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10).stdout
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.strip() + (" + changes" if changes.strip() else "")


# Going on -------------------------------------------------------------------------------------------------------------


def restart_of(folder: Path) -> Path | None:
    """`folder` if it holds a checkpoint already: a job that was requeued or started again goes on by itself."""
    return folder if any(folder.glob("checkpoints/*.ckpt")) else None


def refuse_another(saved: dict[str, Any], cfg: DictConfig) -> None:
    """UserError if `cfg` differs from the configuration in a checkpoint, in more than the budget and the like."""
    before, now = ADDED | flat(saved), ADDED | flat(OmegaConf.to_container(cfg, resolve=True))
    derived = {
        key for key, value in flat(OmegaConf.to_container(cfg)).items() if isinstance(value, str) and "${" in value
    }
    for key in sorted((before.keys() | now.keys()) - derived):
        free = key.split(".")[0] in FREE or key.split(".")[-1] in FREE_ANYWHERE or key == DATA_PATH
        if not free and before.get(key) != now.get(key) and not (key in PATHS and one_place(before.get(key), now[key])):
            raise UserError(
                f"{key}={now.get(key)}: the checkpoint is of a run with {before.get(key)}; "
                f"continue that run by resume=RUN alone, or start another"
            )


def one_place(path: Any, other: Any) -> bool:
    return isinstance(path, str) and isinstance(other, str) and os.path.abspath(path) == os.path.abspath(other)


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> leaf."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    leaves: dict[str, Any] = {}
    for key, child in node.items():
        leaves |= flat(child, f"{path}.{key}" if path else str(key))
    return leaves
