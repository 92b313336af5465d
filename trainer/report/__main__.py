"""Reports: python -m trainer.report RUN writes RUN/report.html again; several runs are compared in one compare.html."""

from __future__ import annotations

from pathlib import Path

from trainer.config.arguments import Parser
from trainer.config.entry import exit_on_error
from trainer.errors import UserError


def main() -> None:
    parser = Parser("report", str(__doc__), positional="checkpoint")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folder of a run: outputs/NAME/TIME")
    parser.add_argument(
        "--out", type=Path, help="file to write; default RUN/report.html, of several runs ./compare.html"
    )
    given = parser.given()
    with exit_on_error():
        from trainer.report import compare, single  # here, so that --help is answered at once

        if len({run.resolve() for run in given.runs}) < len(given.runs):
            raise UserError(f"{' '.join(map(str, given.runs))}: one run is named twice; name each once")
        path = compare.write(given.runs, given.out) if len(given.runs) > 1 else single.write(given.runs[0], given.out)
        print(path)


if __name__ == "__main__":
    main()
