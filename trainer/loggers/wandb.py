"""Weights & Biases, online where it can be and offline where it cannot, never in the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

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


class WandB(WandbLogger):
    """One W&B run for a run folder and all its restarts, written by rank 0.

    Without an API key the run is offline, and so it is where the server does not answer within `init_timeout` seconds.
    It never asks anything and never ends a training. Files lie in FOLDER/wandb, the id of the run in FOLDER/wandb_id.
    The x axis is `progress/kimg`. WANDB_* environment variables win over the arguments; further arguments are those of
    `wandb.init`.
    """

    def __init__(
        self,
        folder: str,
        project: str = "trainer",
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        init_timeout: float = 10,
        **init: Any,
    ) -> None:
        self.folder = Path(folder)
        self._data_dir = str(self.folder.absolute() / "wandb")
        self.init_timeout = init_timeout
        super().__init__(
            name=name or " ".join(filter(None, (group, self.folder.name))),
            save_dir=folder,
            project=project,
            group=group,
            tags=list(tags),
            **{"job_type": "train"} | init,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = self._start()
            self._experiment.define_metric("progress/kimg")
            self._experiment.define_metric("*", step_metric="progress/kimg", step_sync=True)
        return self._experiment

    def _start(self) -> Any:
        import wandb  # here: it takes a second

        stored = self.folder / "wandb_id"
        # An offline log is otherwise written every 15 s, and artifacts are kept in the home folder.
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "2")
        os.environ.setdefault("WANDB_DATA_DIR", self._data_dir)
        options: dict[str, Any] = dict(self._wandb_init)
        if stored.exists():
            options["id"] = stored.read_text().strip()
        options = {key: value for key, value in options.items() if os.environ.get(_ENVIRONMENT.get(key, "")) is None}
        settings = wandb.Settings()
        if "WANDB_SILENT" not in os.environ:
            settings.silent = True
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings.init_timeout = self.init_timeout
        wandb.setup(settings)
        for mode in dict.fromkeys((os.environ.get("WANDB_MODE", "online"), "offline", "disabled")):
            try:
                if mode == "online" and not wandb.login(prompt=False, verify=False):
                    continue
                run = wandb.init(**options | {"mode": mode}, settings=settings)
            except Exception as error:  # whatever it is, the training is worth more
                print(f"W&B {mode}: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
                wandb.teardown()
            else:
                stored.write_text(f"{run.id}\n")
                return run
        raise AssertionError("a disabled run always starts")

    @property
    def where(self) -> str:
        """For people: the page of the run, or the command that shows it here; '' where it is disabled."""
        run = self.experiment
        return str(run.url) if run.url else f"W&B offline: wandb leet {Path(run.dir).parent}" if run.offline else ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:
            print(f"W&B stops logging: {error}", file=sys.stderr, flush=True)
            import wandb

            self._experiment = wandb.init(mode="disabled")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the W&B run here and not at the end of the process, which may be a kill."""
        run, self._experiment = self._experiment, None
        if run is not None:
            run.finish(exit_code=0 if status == "success" else 1)
        if os.environ.get("WANDB_DATA_DIR") == self._data_dir:  # the next run of a sweep has its own
            del os.environ["WANDB_DATA_DIR"]
