"""What the packages of this project are called where they are installed, which is not what they import as."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

NAME = "text-image-trainer"


def version() -> str:
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def install(extra: str) -> str:
    """The command that installs what the optional dependencies `extra` name, for messages."""
    checkout = (Path(__file__).parents[2] / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if checkout else f"pip install '{NAME}[{extra}]'"
