"""Reports: python -m trainer.report RUN writes RUN/report.html again; several runs are compared in one compare.html.

Of several that were measured a table is printed, too: mean and spread over the seeds of each experiment.
"""

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
        from trainer.report import compare, experiments, single  # here, so that --help is answered at once
        from trainer.report.run import Run

        if len({run.resolve() for run in given.runs}) < len(given.runs):
            raise UserError(f"{' '.join(map(str, given.runs))}: one run is named twice; name each once")
        if len(given.runs) == 1:
            print(single.write(given.runs[0], given.out))
            return
        path = compare.write(given.runs, given.out)
        for table in experiments.tables([Run(run) for run in given.runs]):
            print(table.text() + "\n")
        print(path)


if __name__ == "__main__":
    main()
