"""Weights & Biases, online where it can be and offline where it cannot, never in the way."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
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

_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
_TAG_LETTERS = 64


class Absent:
    """Stands for a run of W&B where there is none: takes all that is logged."""

    url, id, dir, offline = "", "", "", False

    def __getattr__(self, name: str) -> Absent:
        return self

    def __call__(self, *args: Any, **options: Any) -> Absent:
        return self


def taken(key: str, value: str, source: str) -> str:
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
        print(f"W&B takes no {source}={value}: {fit} instead", file=sys.stderr, flush=True)
    return fit


def harmless(method: Callable[..., None]) -> Callable[..., None]:
    """On rank 0 alone and only while a run is open; an error is told in one line, as the training is worth more."""

    @rank_zero_only
    @functools.wraps(method)
    def tried(self: WandB, *args: Any, **kwargs: Any) -> None:
        try:
            if self._experiment is not None:
                method(self, *args, **kwargs)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            print(f"W&B {method.__name__} failed: {reason}", file=sys.stderr, flush=True)

    return tried


class WandB(WandbLogger):
    """One W&B run for a run folder and all its restarts, written by rank 0.

    Without an API key the run is offline, and so it is where the server does not answer within `init_timeout` seconds.
    It never asks anything and never ends a training. Files lie in FOLDER/wandb, the id of the run in FOLDER/wandb_id.
    Of a folder that was moved, `wandb sync` finds the artifacts after `ln -s NEW OLD`: the log has absolute paths.
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
        """A run of W&B; whatever keeps one from starting, a line tells it and the training goes on without."""
        try:
            return self._init()
        except Exception as error:  # of its settings, of an environment that it does not take, of its installation
            print(f"W&B is left out: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
            return Absent()

    def _init(self) -> Any:
        import wandb  # here: it takes a second

        stored = self.folder / "wandb_id"
        # An offline log is otherwise written every 15 s, and artifacts are kept in the home folder.
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "2")
        os.environ.setdefault("WANDB_DATA_DIR", self._data_dir)
        options: dict[str, Any] = dict(self._wandb_init)
        if "WANDB_SWEEP_ID" in os.environ:  # of `wandb agent`
            options["group"] = f"sweep {os.environ['WANDB_SWEEP_ID']}"
        if stored.exists():
            options["id"] = stored.read_text().strip()
        for variable in [key for key in os.environ if key.startswith("WANDB_") and not os.environ[key].strip()]:
            del os.environ[variable]  # empty, as compose files leave them
        for key, variable in _ENVIRONMENT.items():
            if variable in os.environ:
                options[key] = os.environ[variable] = taken(key, os.environ[variable], variable)
            elif options.get(key):
                words = ",".join(options[key]) if key == "tags" else str(options[key])
                options[key] = taken(key, words, f"logger.wandb.{key}")
        options["tags"] = options["tags"].split(",") if options.get("tags") else []
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
                stored.write_text(f"{run.id}\n")
            except Exception as error:  # whatever it is, the training is worth more
                print(f"W&B {mode}: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)
                wandb.teardown()
            else:
                return run
        return Absent()

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

    @harmless
    def log_sample_table(
        self, key: str, captions: Sequence[str], seeds: Sequence[int], images: Sequence[Any], step: int
    ) -> None:
        """A table of caption, seed and image, (H, W, 3) uint8 arrays; its pictures are copied once more."""
        import wandb

        rows = [[c, s, wandb.Image(i)] for c, s, i in zip(captions, seeds, images, strict=True)]
        self.log_metrics({key: wandb.Table(["caption", "seed", "image"], rows)}, step)

    @harmless
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """What stands in the table of runs."""
        self.experiment.summary.update(dict(values))

    @harmless
    def log_data(self, name: str, description: Mapping[str, Any]) -> None:
        """An artifact of type dataset that only says what the data is; equal data is one version over all runs.

        It is an input of the run. Offline it is an output of it, as W&B takes no inputs there.
        """
        import wandb

        artifact = wandb.Artifact(name, "dataset", metadata=dict(description))
        with artifact.new_file("data.json") as file:
            json.dump(description, file, indent=2, sort_keys=True)
        run = self.experiment
        run.log_artifact(artifact) if run.offline else run.use_artifact(artifact)

    @harmless
    def log_model(self, path: Path, aliases: Sequence[str], metadata: Mapping[str, Any], upload: bool) -> None:
        """A version of the artifact model-ID: a checkpoint, by its place and checksum, or with `upload` its content."""
        import wandb

        artifact = wandb.Artifact(f"model-{self.experiment.id}", "model", metadata=dict(metadata))
        if not upload:
            artifact.add_reference(path.absolute().as_uri(), name=path.name)
        elif path.is_dir():
            artifact.add_dir(str(path), name=path.name)
        else:
            artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact, aliases=list(aliases))

    @harmless
    def alert(self, title: str, text: str, level: str) -> None:
        """A message to whom W&B is set to tell. level: INFO, WARN or ERROR."""
        self.experiment.alert(title, text, level=level, wait_duration=0)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the W&B run here and not at the end of the process, which may be a kill."""
        run, self._experiment = self._experiment, None
        if run is not None:
            run.finish(exit_code=0 if status == "success" else 1)
        if os.environ.get("WANDB_DATA_DIR") == self._data_dir:  # the next run of a sweep has its own
            del os.environ["WANDB_DATA_DIR"]
