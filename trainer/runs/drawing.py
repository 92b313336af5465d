"""The network of a run that draws, apart from those that train with it: without the loop, and what the loop imports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any

from trainer.errors import DamagedError, UserError
from trainer.runs.export_files import DRAWING, of_drawing


def draws(objective: Any) -> dict[str, Any]:
    """What a checkpoint says of it: its path in the objective and its configuration; {} if none draws."""
    if not objective.draws_with or "objective" not in objective.config:
        return {}
    node: dict[str, Any] = reduce(getitem, objective.draws_with.split("."), objective.config["objective"])
    grown = getattr(objective, "drawn_with", {})  # the level of one that grows
    return {"with": objective.draws_with, "generator": node | grown}


def require_grown(named: str, drawn: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """UserError where a network that grows was left at another level than `own`, the configuration of a new one, has:
    a run tells its level in its checkpoints alone. An export has it in its configuration, which the new one takes."""
    if drawn.get("level") != own.get("level"):
        raise UserError(f"{named} has not grown to its end: let it finish, or give its export")


def alone(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint as if that of a `Drawing`; as it is if none draws, or it is an older one.

    Its configuration has yet to be checked, as that of any file. DamagedError if it is none of ours.
    """
    told = content.get("draws")
    if not told:
        return content
    try:
        path, node = f"{told['with']}.", told["generator"]
        config = of_drawing(content["config"]) | {"objective": {"_target_": DRAWING, "generator": node}}
        weights = {key: of_it(content[key], path) for key in ("state_dict", "ema")}
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedError("says nothing of use of what draws with it") from error
    return content | weights | {"config": config}


def of_it(weights: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Those of the network at `path.` of the objective, named as a `Drawing` has them."""
    return {f"generator.{key.removeprefix(path)}": weights[key] for key in weights if key.startswith(path)}
