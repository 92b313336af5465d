"""The W&B workspace as code: python -m trainer.dashboard --push, or --dump FILE.json, which needs no login."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer.config.arguments import Parser
from trainer.errors import UserError
from trainer.loggers import dashboard


def main() -> None:
    parser = Parser(
        "dashboard",
        "The W&B workspace for runs of this trainer: quality, samples, stability, speed, VAE, matching.",
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--push", action="store_true", help="save it in W&B; needs a login")
    action.add_argument("--dump", metavar="FILE.json", type=Path, help="write it into a file")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="default: that of the login")
    parser.add_argument("--project", default=os.environ.get("WANDB_PROJECT", "trainer"), help="default: trainer")
    given = parser.given()
    try:
        if given.dump:
            dashboard.dump(given.dump)
        print(dashboard.push(given.entity, given.project) if given.push else given.dump)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
