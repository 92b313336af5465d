"""A user's mistake in one line, with the nearest right name."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from trainer.config import habits
from trainer.config.synonyms import suggestion
from trainer.errors import UserError

REMEDIES = (
    "a training takes less with objective.accumulate=2 or more, trainer.precision=bf16-mixed, strategy=zero2 or "
    "strategy=fsdp, all of which resume=RUN takes too, or a smaller data.batch_size; trainer.sample and "
    "trainer.evaluate with a smaller batch_size"
)
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


def explain(error: BaseException, folders: list[Path]) -> str | None:
    """The user's mistake behind `error`, given the config folders; None if there is none and `error` is a bug."""
    causes = list(chain(error))
    for cause in causes:
        if isinstance(cause, UserError) or type(cause).__name__ == "MisconfigurationException":  # that is Lightning's
            return one_line(str(cause))
        if isinstance(cause, OSError) and cause.errno in DISK:
            return f"{cause.filename or 'disk'}: {cause.strerror}"
        if type(cause).__module__ == "torch" and "out of memory" in str(cause):  # --help does without torch
            first = str(cause).splitlines()[0]
            return f"{re.sub('(?<= is free).*', '', first)}: {REMEDIES}"
    if isinstance(error, InstantiationException):
        return explain_refusal(error)
    if str(error).startswith("Config group override must be"):  # group=null
        return f"{error}; a part is left out by ~group"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return unknown_option(error.missing_cfg_file, options(folders))
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException):
            return wrong_key(str(error), cause, folders)
    return unknown_group(str(error), options(folders)) or one_line(str(error))


def explain_reading(error: Exception, folders: list[Path]) -> str:
    """What was raised while a configuration was read, whatever it is: with the file and line where those are known."""
    mark = getattr(error, "problem_mark", None)  # of a yaml.YAMLError
    if mark is not None:
        words = getattr(error, "context", None), getattr(error, "problem", None)
        return f"{mark.name}, line {mark.line + 1}: {' '.join(filter(None, words))}"
    if isinstance(error, UnicodeDecodeError):
        file = next((file for folder in folders for file in folder.rglob("*.yaml") if not is_utf8(file)), "")
        line = error.object[: error.start].count(b"\n") + 1
        return f"{file}, line {line}: not in UTF-8; save it in that encoding"
    return f"{type(error).__name__}: {one_line(str(error))}"


def is_utf8(file: Path) -> bool:
    try:
        file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from, each once: libraries raise errors anew, which can close the chain to a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        omegaconf = isinstance(error, (HydraException, OmegaConfBaseException))  # they often chain by context only
        error = error.__cause__ or (error.__context__ if omegaconf else None)


def explain_refusal(error: InstantiationException) -> str | None:
    """For a part that did not take its values, or lacks some; other failures to build it are bugs."""
    if refuses := re.match(r"Target '([^']+)\.[^'.]+'.* is blocklisted", str(error)):
        return f"{refuses[0].partition(' is')[0]}: Hydra builds nothing of a module {refuses[1]}; rename the module"
    reason = error.__cause__
    if not isinstance(reason, ValueError) and not re.search(r"missing \d+ required", str(reason)):
        return None
    part = re.search(r"target '([^']+)'", str(error))
    return f"{part[1]}: {one_line(str(reason))}" if part else one_line(str(reason))


def unknown_option(file: str, groups: dict[str, dict[str, Path]]) -> str:
    group, _, option = file.removesuffix(".yaml").rpartition("/")
    path = file.removesuffix(".yaml").removeprefix("data/")
    if file.startswith("data/") and (group not in groups or Path(path).suffix or Path(path).exists()):
        return f"data={path}: no such option; {habits.data(path)}"
    if group not in groups:
        return f"{group or option}: no such group" + nearest(group or option, groups)
    known = sorted(groups[group])
    return f"{group}={option}: no such option" + (nearest(option, known) or f"; choose one of {', '.join(known)}")


def unknown_group(message: str, groups: dict[str, dict[str, Path]]) -> str | None:
    """For Hydra's 'Could not override' of a group that no defaults list names."""
    found = re.search(r"Could not override '([^'@]+)'", message)
    placed = re.search(r"Did you mean to override (\S+?)\?", message)
    if not found:
        return None
    near = f"; did you mean {placed[1]}?" if placed else nearest(found[1], groups)
    return f"{found[1]}: no such group in this configuration{near}"


def wrong_key(message: str, cause: OmegaConfBaseException, folders: list[Path]) -> str:
    override = re.search(r"Could not override '([^']+)'|Error merging override ([^=\s]+)", message)
    key = str((override and (override[1] or override[2])) or cause.full_key or cause.key or "")
    file = re.match(r"In '([^']+)'", message)
    where = f"{file[1]}.yaml: " if file else ""
    if isinstance(cause, MissingMandatoryValue):
        remedy = "RUN, a folder outputs/NAME/TIME" if key == "checkpoint" else "..."
        return f"{key}: a value is needed; say {key}={remedy}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)):
        if file and key == file[1].partition("/")[0]:
            return f"{where}its first line must be `# @package _global_`, as of every {key}"
        root = cause.parent_node._get_root() if cause.parent_node is not None else None
        known = [name for name in keys(root) if not name.startswith("hydra.")]
        groups = options(folders) if "objective" in known else []  # other verbs take few of them
        return f"{where}{key}: no such key" + nearest(key, [*known, *groups])
    elsewhere = parts_with(str(cause.msg), folders) if isinstance(cause, InterpolationKeyError) else ""
    return f"{where}{key}: {one_line(str(cause.msg))}{elsewhere}"


def parts_with(message: str, folders: list[Path]) -> str:
    """For a part that reads a key of another part, of which an option without that key was chosen."""
    parts = message.split("'")[1].split(".")  # Interpolation key 'objective.generator.stages' not found
    groups = options(folders)
    at = max((i for i, part in enumerate(parts[:-1]) if part in groups and part != "objective"), default=0)
    kind, key = parts[at], parts[at + 1 :]
    have = [name for name, file in groups.get(kind, {}).items() if has(OmegaConf.load(file), key)]
    place = f"{kind}@{'.'.join(parts[: at + 1])}" if at else kind  # a part of the root has no other place
    return f"; choose another part, or {place}={' or '.join(have)}" if have else ""


def has(node: Any, key: list[str]) -> bool:
    """Whether a node of a file has a key within, given by its parts."""
    for part in key:
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node._get_node(part)
    return True


def one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key:", "object_type=", "See https")))


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean x?' for the dotted name nearest to `word`, '' if none is near."""
    known = [name for name in known if name != word and not name.startswith(f"{word}.")]
    if name := suggestion(word, known):
        return f"; did you mean {name}?"
    parent, _, last = word.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == parent]
    found = (
        difflib.get_close_matches(word, siblings, 1, 0.6)
        or [name for name in known if name.rpartition(".")[2] == last]
        or difflib.get_close_matches(word, known, 1, 0.75)
    )
    return f"; did you mean {found[0]}?" if found else ""


def keys(node: Any, path: str = "") -> Iterator[str]:
    """Dotted names of everything in a configuration."""
    if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        for key, child in node.items_ex(resolve=False):
            name = f"{path}.{key!s}" if path else str(key)
            yield name
            yield from keys(child, name)


# What there is to choose from -----------------------------------------------------------------------------------------


def options(folders: list[Path]) -> dict[str, dict[str, Path]]:
    """group -> option -> file; the first folder wins."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders:
        for file in sorted(folder.glob("*/**/*.yaml")):
            found.setdefault(file.parent.relative_to(folder).as_posix(), {}).setdefault(file.stem, file)
    return dict(sorted(found.items()))


def listing(folders: list[Path]) -> str:
    """Experiments with their titles and groups with their options, for --help."""
    groups = options(folders)
    experiments = sorted(groups.pop("experiment", {}).items())
    lines = ["experiment=NAME", *(f"  {name:16} {title(file)}".rstrip() for name, file in experiments), ""]
    lines += ["group=option", *(f"  {group:16} {', '.join(sorted(names))}" for group, names in groups.items())]
    return "\n".join(lines).replace("$", "$$")  # Hydra fills it into a string.Template


def title(file: Path) -> str:
    """First line of a config's header comment."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""
