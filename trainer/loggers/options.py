"""Options of `wandb.init`: of the configuration, of the environment, and in the form that W&B takes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

_ENVIRONMENT = {  # what a user may have set for all runs; it wins over the configuration
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "name": "WANDB_NAME",
    "tags": "WANDB_TAGS",
    "dir": "WANDB_DIR",
    "id": "WANDB_RUN_ID",
    "resume": "WANDB_RESUME",
    "mode": "WANDB_MODE",
}

_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
_TAG_LETTERS = 64


def accepted_value(key: str, value: str, source: str) -> str:
    """The value of an option as W&B takes it; a line tells what was changed. source: where the user has set it."""
    if key == "tags":  # an empty one is left out
        value = ",".join(tag.strip() for tag in value.split(",") if tag.strip())
    fit = value
    if key == "mode" and value not in _MODES:
        fit = "offline"
    elif key in ("project", "id"):
        fit = re.sub(r"[/\\#?%:]", "-", value)
    elif key == "tags":
        fit = ",".join(tag[:_TAG_LETTERS] for tag in value.split(","))
    if fit != value:
        tell(f"W&B takes no {source}={value}: {fit} instead")
    return fit


def from_environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` where no WANDB_* variable sets another. Variables change with what W&B would not take, as it reads
    them too."""
    options = dict(options)
    for variable in [key for key in os.environ if key.startswith("WANDB_") and not os.environ[key].strip()]:
        del os.environ[variable]  # empty, as compose files leave them
    for key, variable in _ENVIRONMENT.items():
        if variable in os.environ:
            options[key] = os.environ[variable] = accepted_value(key, os.environ[variable], variable)
        elif options.get(key):
            words = ",".join(options[key]) if key == "tags" else str(options[key])
            options[key] = accepted_value(key, words, f"logger.wandb.{key}")
    options["tags"] = options["tags"].split(",") if options.get("tags") else []
    return options


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
