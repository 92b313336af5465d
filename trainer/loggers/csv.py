"""Metrics as one plain table."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.process.progress import best_effort


class CSV(Logger):
    """Appends to one file, a row a step, in time that does not grow with the run.

    Metrics of the same step share a row. A new metric adds a column (the file is then rewritten once). A resumed run
    drops the rows from its first new step on, so no step appears twice.
    On a full disk rows are missing; that is told once.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)
        self.where = path
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._row_start = 0  # byte offset of the current step's row

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config stands in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with best_effort(self.path):
            try:
                self._log(metrics, step)
            except OSError:
                self._columns = []  # the next one begins with what the file has then
                with suppress(OSError):
                    os.truncate(self.path, self._row_start)
                raise

    def _log(self, metrics: dict[str, float], step: int | None) -> None:
        if not self._columns:
            self._open(step or 0)
        if self._row.get("step") != step:
            self._row, self._row_start = {"step": step}, self.path.stat().st_size
        self._row |= metrics
        new = [key for key in self._row if key not in self._columns]
        if new:
            rows = [row for row in self._read() if int(row["step"]) != step]
            self._columns += new
            self._rewrite(rows)
        with open(self.path, "r+", newline="") as file:
            file.seek(self._row_start)
            file.truncate()
            csv.DictWriter(file, self._columns).writerow(self._row)

    def _open(self, step: int) -> None:
        before = self._read()
        rows = [row for row in before if int(row["step"]) < step]
        for row in before:
            if int(row["step"]) == step:  # a measurement that a signal broke off is made up for at the same step
                self._row = {"step": step} | {key: value for key, value in row.items() if value and key != "step"}
        self._columns = list(rows[0]) if rows else ["step"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite(rows)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return [row for row in csv.DictReader(file) if (row["step"] or "").isdigit()]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        try:
            with open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._row_start = self.path.stat().st_size
