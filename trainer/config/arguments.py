"""Command lines of verbs that compose no configuration: flags, or key=value as of the others; a mistake is one line."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from trainer.config.command_line import flags
from trainer.config.mistakes import nearest
from trainer.process import distribution


class Parser(argparse.ArgumentParser):
    """Reads sys.argv; `positional` is the key that stands for an argument without a flag."""

    def __init__(self, verb: str, description: str, positional: str = "") -> None:
        super().__init__(prog=f"python -m trainer.{verb}", description=description)
        self.positional = positional
        version = f"{distribution.NAME} {distribution.version()}"
        self.add_argument("--version", action="version", version=version, help=argparse.SUPPRESS)

    def given(self) -> argparse.Namespace:
        return self.parse_args(flags(sys.argv[1:], positional=self.positional))

    def error(self, message: str) -> NoReturn:
        words = message.partition("unrecognized arguments: ")[2].split()
        known = [flag.lstrip("-") for flag in self._option_string_actions if flag not in ("-h", "--version")]
        near = nearest(words[0].lstrip("-").partition("=")[0], known).replace("mean ", "mean --") if words else ""
        print(f"{message}{near or f'; see {self.prog} --help'}", file=sys.stderr, flush=True)
        sys.exit(2)
