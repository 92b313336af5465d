"""Every key of a configuration against the signature it will be handed to, before anything is built.

Hydra checks what is typed on the command line. A key mistyped inside an experiment merges silently, and so does `+key`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from trainer.errors import UserError
from trainer.mistakes import keys, nearest, options

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
    for path, node in targets(cfg):
        check_call(path, node)
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


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
    function = find(path, node["_target_"])
    accepted = parameters(function)
    if accepted is None:
        return
    types = type_hints(function)
    for key in map(str, node):
        if key in OF_HYDRA:
            continue
        if key not in accepted:
            near = nearest(f"{path}.{key}", (f"{path}.{name}" for name in accepted))
            raise UserError(f"{path}.{key}: {node['_target_']} takes no {key}{near}")
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if key in types and not fits(node[key], types[key]):
            raise UserError(f"{path}.{key}={node[key]}: expected {types[key].__name__}")


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


def parameters(function: Callable[..., Any]) -> set[str] | None:
    """Names that a call accepts, through the `**kwargs` that a class hands to its bases; None if it takes any."""
    makers = [function]
    if inspect.isclass(function):
        makers = [vars(base)["__init__"] for base in function.__mro__ if "__init__" in vars(base)]
    names: set[str] = set()
    for maker in makers:
        try:
            found = inspect.signature(maker).parameters.values()
        except (TypeError, ValueError):  # written in C
            return None
        names |= {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            return names
    return None


def type_hints(function: Callable[..., Any]) -> dict[str, type]:
    """Arguments annotated with a plain int, float, str or bool."""
    try:
        found = inspect.signature(function, eval_str=True).parameters.values()
    except Exception:  # written in C, or annotations that only a type checker can resolve
        return {}
    return {p.name: p.annotation for p in found if p.annotation in (int, float, str, bool)}


def fits(value: Any, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)
