"""An offline W&B run, read back by W&B's own command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[dict[str, Any]]:
    """Everything in the offline runs of a folder, in the order of their start."""
    wandb = str(Path(sys.executable).with_name("wandb"))
    lines = []
    for run in sorted(folder.glob("wandb/offline-run-*")):
        shown = subprocess.run([wandb, "leet", "inspect", "--json", run], capture_output=True, text=True, check=True)
        lines += shown.stdout.splitlines()
    return [json.loads(line) for line in lines]


def history(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, nested keys joined by dots."""
    return [record["history"]["item"] for record in found if record["type"] == "history"]


def logged_keys(found: list[dict[str, Any]]) -> set[str]:
    """Keys of the history and the summary as they were logged: those of an image or a table without their parts."""
    rows = [*history(found), *(record["summary"].get("update", {}) for record in found if record["type"] == "summary")]
    return {key.partition(".")[0] for row in rows for key in row}


def artifacts(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Logged artifacts of a type; `metadata` is read already."""
    logged = [record["artifact"] for record in found if record["type"] == "artifact"]
    return [each | {"metadata": json.loads(each.get("metadata", "{}"))} for each in logged if each["type"] == kind]


def alerts(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["alert"] for record in found if record["type"] == "alert"]
