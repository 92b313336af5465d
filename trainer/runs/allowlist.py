"""What a stored configuration may name. Checkpoints, exports and the folders of runs are data, whoever made them.

A `_target_` in one is a part of this package, of the kind that belongs at its place; or a class of `torch.nn` or
`torch.optim`; or what the user allows: by `allow=[my_package]`, by $TRAINER_ALLOW, or by naming that target in ./conf.
Models of `transformers` are chosen by `text.encoder.name` alone, from the table in `trainer.text.models`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.runs import moved

VARIABLE = "TRAINER_ALLOW"  # names with commas between them; also for the processes that this one starts
RESOLVERS = (  # oc.env tells secrets
    *("oc.select", "steps", "by_width", "by_pixels", "by_name", "run_dir", "num_nodes", "devices", "accelerator"),
)
BUILT = ("objective", "text", "data", "runtime")  # of a checkpoint; nothing else in one is ever instantiated
LOGGING = {  # keys of loggers; with others a run could send the user's W&B key to another server
    *(
        "_target_",
        "path",
        "folder",
        "project",
        "entity",
        "group",
        "name",
        "tags",
        "notes",
        "job_type",
        "mode",
        "init_timeout",
    ),
}
WRITTEN = {"path", "folder", "default_root_dir"}  # keys of loggers and of the trainer that say where to write
TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
NAME = re.compile(r"[^/\\.$\x00-\x1f][^/\\$\x00-\x1f]*")  # of a run, and so of folders
PLAIN = (str, int, float, bool, type(None))
NODE = r"[\w.\[\]]+"  # in ${}: another place of the same configuration


def inherits(*bases: str) -> Callable[[Any], bool]:
    """Whether a part is a class with one of these bases, `package.Class`."""

    def check(part: Any) -> bool:
        found = [getattr(importlib.import_module(name), last) for name, _, last in (b.rpartition(".") for b in bases)]
        return isinstance(part, type) and issubclass(part, tuple(found))

    return check


def has(*methods: str) -> Callable[[Any], bool]:
    """Whether a part is a class with one of these methods."""
    return lambda part: isinstance(part, type) and any(m in vars(base) for m in methods for base in part.__mro__)


def functions_named(*names: str) -> Callable[[Any], bool]:
    return lambda part: part.__name__ in names


NETWORK = inherits("torch.nn.Module")
STRATEGY = inherits("pytorch_lightning.strategies.Strategy")
NETWORKS = {f"trainer.{room}": NETWORK for room in ("networks", "text", "compression")} | {"torch.nn": NETWORK}
PARTS: dict[str, dict[str, Callable[[Any], bool]]] = {  # place -> module or package -> which of what it defines
    "objective": {
        **NETWORKS,
        "trainer.objectives": NETWORK,
        "trainer.exports.drawing": NETWORK,
        "trainer.exports.generator": NETWORK,
        "trainer.backbones": functions_named("load"),  # whose features a network learns from
        "trainer.losses": callable,
        "trainer.tasks": has("of_picture"),
        "trainer.objectives.rewards": has("prepare"),
        "trainer.objectives.schedules": callable,
        "trainer.compression.structure": functions_named("rebuilt"),
        "torch.optim": inherits("torch.optim.Optimizer"),
    },
    "text": {**NETWORKS, "trainer.text": has("prepare", "forward")},
    "data": {"trainer.data": has("prepare", "items", "__call__")},
    "runtime": {
        "trainer.sampling.runtime": functions_named("half", "channels_last", "compiled", "cuda_graphs"),
        "trainer.exports.small_batches": functions_named("onnxruntime"),
        "trainer.exports.ahead_of_time": functions_named("aot"),
    },
    "strategy": {"trainer.strategies": lambda part: part.__name__ == "auto" or STRATEGY(part)},
    "trainer": {"pytorch_lightning": functions_named("Trainer")},
    "callbacks": {
        "trainer.callbacks": inherits("pytorch_lightning.Callback"),
        "trainer.backbones": functions_named("load"),
    },
    "backbones": {"trainer.backbones": functions_named("load")},  # what taught a teacher or tokenizer
    "logger": {"trainer.loggers": inherits("pytorch_lightning.loggers.Logger")},
}
FOREIGN = ("trainer", "torch", "pytorch_lightning", "transformers", *sys.stdlib_module_names)  # nobody's own package


def allow(names: str | Iterable[str] | None) -> None:
    """Packages, targets and folders that stored configurations may name, in this process and in those it starts.

    UserError for the standard library, which is no part of a model.
    """
    given = re.findall(r"[^\s,\[\]'\"]+", names) if isinstance(names, str) else [str(each) for each in names or ()]
    for name in given:
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise UserError(f"allow={name}: the standard library is no part of a model; allow packages of your own")
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*allowed(), *given]))


def allow_own(targets: Iterable[str]) -> None:
    """Those of the user's own packages among targets that the user has named already."""
    allow(target for target in targets if target.partition(".")[0] not in FOREIGN)


def allowed() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def check_config(config: Any, file: str | Path, is_composed: bool = False) -> dict[str, Any]:
    """The configuration that a file holds, as it may be used: plain data that names nothing but what is allowed.

    is_composed: of a run to go on with, before ${} is filled in, where everything is built; else it is of a checkpoint
    or an export, where that is the objective, text, data and passes. A folder for caches is kept where there are some.
    UserError with the place and the name of what is refused. Nothing but this package and allowed ones is imported.
    """
    if not isinstance(config, dict):
        raise UserError(f"{file}: its configuration is a {type(config).__name__}, expected one of a training run")
    for key in ("hydra", "defaults") if is_composed else ():
        if key in config:
            raise UserError(f"{file}: {key} is not of a run: refused")
    name = config.get("name")
    if is_composed and name is not None and not (isinstance(name, PLAIN) and NAME.fullmatch(str(name))):
        raise UserError(f"{file}: name={str(name)!r:.80} is no name for a folder: refused")
    check = _Check(file, is_composed)
    return {
        key: check.clean(node, str(key), str(key)) if is_composed or key in BUILT else node
        for key, node in config.items()
    }


class _Check:
    def __init__(self, file: str | Path, is_composed: bool):
        self.file, self.is_composed = file, is_composed
        self.allowed = allowed()
        names = "|".join(map(re.escape, [*RESOLVERS, *self.allowed]))
        self.harmless = re.compile(rf"\$\{{\s*(({names})\s*:[^{{}}$]*|{NODE})\s*\}}")

    def refuse(self, path: str, why: str) -> UserError:
        return UserError(f"{self.file}: {path}{why}")

    def clean(self, node: Any, place: str, path: str) -> Any:
        if isinstance(node, dict):
            return self.clean_dict(node, place, path)
        if isinstance(node, list | tuple):
            return [self.clean(each, place, f"{path}[{number}]") for number, each in enumerate(node)]
        if type(node) not in PLAIN:
            raise self.refuse(path, f" is a {type(node).__name__}, which is no plain data: refused")
        if isinstance(node, str) and "${" in node:
            self.check_interpolation(node, path)
        return node

    def clean_dict(self, node: dict[Any, Any], place: str, path: str) -> dict[Any, Any]:
        if "defaults" in node:  # of Hydra, where it stands at the top of a group
            raise self.refuse(f"{path}.defaults", " is not of a run: refused")
        if "_target_" in node:
            if isinstance(node["_target_"], str):
                node = node | {"_target_": moved.today(node["_target_"])}
            self.check_target(node["_target_"], place, f"{path}._target_")
        found = {}
        for key, each in node.items():
            if place == "logger" and path != place and key not in LOGGING:
                raise self.refuse(f"{path}.{key}", " may not come from a file: say it on the command line anew")
            if place in ("logger", "trainer") and key in WRITTEN and self.is_composed:
                self.check_place(each, f"{path}.{key}")
            if key == "cache_dir" and isinstance(each, str) and "${" not in each and not has_caches(Path(each)):
                each = None
            found[key] = self.clean(each, place, f"{path}.{key}")
        return found

    def check_place(self, value: Any, path: str) -> None:
        within = isinstance(value, str) and re.fullmatch(r"\$\{run_dir\}(/[^/$]+)*", value) and ".." not in value
        if value is not None and not within and not self.is_named(str(value), "/"):
            raise self.refuse(path, f"={value} is not within the run: refused; allow=[{value}] if you want it there")

    def check_interpolation(self, text: str, path: str) -> None:
        left, before = text, ""
        while self.is_composed and left != before:  # from the inside out
            left, before = self.harmless.sub("0", left), left
        if "${" in left:
            found = re.search(r"\$\{\s*([\w.]+)\s*:", left)
            remedy = f"; if you want it to be read: allow=[{found[1]}]" if found and self.is_composed else ""
            raise self.refuse(path, f"={text}: a file may not fill that in here: refused{remedy}")

    def is_named(self, name: str, separator: str = ".") -> str | None:
        """The entry of `allow` that `name` is or is within."""
        return next((e for e in self.allowed if name == e or name.startswith(e.rstrip(separator) + separator)), None)

    def check_target(self, target: Any, place: str, path: str) -> None:
        """UserError unless it is a part of the kind that belongs here, or allowed."""
        if not isinstance(target, str) or not TARGET.fullmatch(target):
            raise self.refuse(path, f"={target} is not the name of a part: refused")
        entry = self.is_named(target)
        if target in (entry, *self.own):
            return
        module, _, name = target.rpartition(".")
        rooms = [room for room in PARTS.get(place, {}) if module == room or module.startswith(f"{room}.")]
        fits = {room: PARTS[place][room] for room in rooms if room.startswith("trainer.") or room == module}
        if entry:
            fits[entry] = callable
        if fits:
            try:
                part = vars(importlib.import_module(module)).get(name)
            except ModuleNotFoundError as error:
                raise self.refuse(path, f"={target} is refused: {error}") from error
            if part is None:
                raise self.refuse(path, f"={target}: there is no such part here; was it made by another version?")
            home = f"{getattr(part, '__module__', None)}."  # where it is defined: no name leads through imports
            if callable(part) and any(home.startswith(f"{root}.") and fit(part) for root, fit in fits.items()):
                return
        root = target.partition(".")[0]
        remedy = "" if root in FOREIGN else f"; only for a package of your own: allow=[{root}]"
        raise self.refuse(path, f"={target} is no part that may stand here: refused{remedy}")

    @cached_property
    def own(self) -> set[str]:
        """The targets of the user's own packages that ./conf names."""
        texts = (file.read_text(encoding="utf-8", errors="replace") for file in Path("conf").rglob("*.yaml"))
        found = {name for text in texts for name in re.findall(r"_target_:\s*['\"]?([\w.]+)", text)}
        return {name for name in found if name.partition(".")[0] not in FOREIGN}


def has_caches(folder: Path) -> bool:
    """Whether it has images or text features of this package, so that a file cannot have others made."""
    folder = folder.expanduser()
    return (folder / "text").is_dir() or next(folder.glob("*/heldout.npy"), None) is not None
