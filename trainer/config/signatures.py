"""Every key of a configuration against the signature it will be handed to, before anything is built.

Hydra checks what is typed on the command line. A key mistyped inside an experiment merges silently, and so does `+key`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainer.config import limits
from trainer.config.mistakes import chain, keys, nearest, options
from trainer.errors import UserError

OF_HYDRA = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check(cfg: DictConfig, schema: type, folders: list[Path]) -> None:
    """UserError unless root keys are in `schema`, values are there and keys beside a `_target_` are its arguments."""
    roots = [field.name for field in fields(schema)]
    for key in map(str, cfg):
        if key not in roots:
            raise UserError(f"{key}: no such key" + nearest(key, [*roots, *options(folders), *keys(cfg)]))
    if OmegaConf.is_missing(cfg, "name"):
        names = ", ".join(options(folders).get("experiment", {}))
        raise UserError(f"no experiment named; say experiment=NAME, one of {names}")
    for group in ("callbacks", "logger"):
        parts = cfg.get(group) or {}
        for name, part in parts.items():
            if part is not None and "_target_" not in part:
                raise UserError(f"{group}.{name}: no such part" + nearest(str(name), map(str, parts)))
    limits.check(cfg)
    unresolved: OmegaConfBaseException | None = None
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if any(isinstance(cause, UserError) for cause in chain(error)):
            raise
        unresolved = error
    for path, node in targets(cfg):  # last, for it imports what they name; a key mistyped there may be why
        check_call(path, node)
    if unresolved:
        raise unresolved


def targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_` and its dotted path."""
    if isinstance(node, ListConfig):
        for number, child in enumerate(node._iter_ex(resolve=False)):
            yield from targets(child, f"{path}[{number}]")
    elif isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        if "_target_" in node:
            yield path, node
        for key, child in node.items_ex(resolve=False):
            yield from targets(child, f"{path}.{key!s}" if path else str(key))


def check_call(path: str, node: DictConfig) -> None:
    accepted = parameters(find(path, node["_target_"]))
    if accepted is None:
        return
    for key in map(str, node):
        if key in OF_HYDRA:
            continue
        if key not in accepted:
            near = nearest(f"{path}.{key}", (f"{path}.{name}" for name in accepted))
            raise UserError(f"{path}.{key}: {node['_target_']} takes no {key}{near}")
        if not (OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)):
            check_type(f"{path}.{key}", node[key], accepted[key])


def check_type(key: str, value: Any, hint: Any) -> None:
    """UserError where an argument is annotated with plain types, as `float | None`, and `value` is none of them."""
    wanted = set(typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint])
    if not wanted <= {int, float, str, bool, type(None)}:
        return
    if type(value) not in wanted and not (type(value) is int and float in wanted):
        names = " or ".join(sorted(kind.__name__ for kind in wanted - {type(None)}))
        raise UserError(f"{key}={value}: expected {names}")


def find(path: str, target: str) -> Callable[..., Any]:
    """What a `_target_` names. UserError with the nearest name, or with the package that it lacks."""
    found: Any = None
    name = ""
    for part in target.split("."):
        name = f"{name}.{part}" if name else part
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not target.startswith(error.name):
                raise UserError(f"{path}._target_={target}: needs the package {error.name}") from error
            modules = [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
            near = nearest(part, [*dir(found), *modules] if found is not None else [])
            raise UserError(f"{path}._target_={target}: there is no {name}{near}") from error
    if not callable(found):
        raise UserError(f"{path}._target_={target}: expected something to call")
    return found


def parameters(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Arguments of a call, annotated, through the `**kwargs` that a class hands to its bases; None for any."""
    makers = [function]
    if inspect.isclass(function):
        makers = [vars(base)["__init__"] for base in function.__mro__ if "__init__" in vars(base)]
    accepted: dict[str, Any] = {}
    for maker in makers:
        try:
            found = signature(maker).parameters.values()
        except (TypeError, ValueError):  # written in C
            return None
        named = (p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        accepted = {p.name: p.annotation for p in named} | accepted
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return accepted
    return None


def signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError):  # annotations that only a type checker can resolve
        return inspect.signature(function)
