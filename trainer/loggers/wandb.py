"""Weights & Biases, online where it can be and offline where it cannot, never in the way."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer.loggers import service
from trainer.loggers.launch_inputs import none_staged
from trainer.loggers.options import from_environment, tell
from trainer.loggers.service import Absent


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def place(run: Any) -> Path:
    """The folder of a run of W&B."""
    return Path(run.dir).parent


def harmless(method: Callable[..., None]) -> Callable[..., None]:
    """On rank 0 alone and only while a run is open; an error is told in one line, as the training is worth more."""

    @rank_zero_only
    @functools.wraps(method)
    def tried(self: WandB, *args: Any, **kwargs: Any) -> None:
        try:
            if self._experiment is not None and not isinstance(self._experiment, Absent):
                method(self, *args, **kwargs)
        except Exception as error:
            tell(f"W&B {method.__name__} failed: {one_line(error)}")

    return tried


class WandB(WandbLogger):
    """One W&B run for a run folder and all its restarts, written by rank 0.

    Without an API key the run is offline, and so it is where the server does not answer within `init_timeout` seconds.
    It never asks anything and never ends a training. Files lie in FOLDER/wandb, the id of the run in FOLDER/wandb_id.
    Of a folder that was moved, `wandb sync` finds the artifacts after `ln -s NEW OLD`: the log has absolute paths.
    Offline, FOLDER/wandb/artifacts/staging keeps what is uploaded by `wandb sync` then: the pictures of tables, and of
    each start its last and its best checkpoint where artifacts hold their content.
    The x axis is `progress/kimg`. WANDB_* environment variables win over the arguments; further arguments are those of
    `wandb.init`.
    """

    _experiment: Any  # a run, `Absent`, or None before the first word

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
        self._uploaded = 0  # bytes
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
            self._say(lambda run: run.define_metric("progress/kimg"))
            self._say(lambda run: run.define_metric("*", step_metric="progress/kimg", step_sync=True))
        return self._experiment

    def _start(self) -> Any:
        """A run of W&B; whatever keeps one from starting, a line tells it and the training goes on without."""
        try:
            return self._init()
        except Exception as error:  # of its settings, of an environment that it does not take, of its installation
            tell(f"W&B is left out: {one_line(error)}")
            return Absent()

    def _say(self, word: Callable[[Any], Any]) -> None:
        """`word` to the run; where the process of W&B does not take it, W&B is given up and a line tells it."""
        run = self.experiment
        try:
            service.within(service.ANSWER, lambda: word(run))
        except Exception as error:
            if not service.is_lost(error):
                raise
            self._experiment = Absent()
            self._give_up(run, error, service.ANSWER)

    def _give_up(self, run: Any, error: Exception, seconds: float) -> None:
        frozen = isinstance(error, TimeoutError)
        why = f"has not answered for {seconds:.0f} s" if frozen else f"is gone ({one_line(error)})"
        tell(f"The process of W&B {why} and is given up; what it has written: wandb sync {place(run)}")
        service.give_up(run)

    def _init(self) -> Any:
        import wandb  # here: it takes a second

        service.quiet()
        stored = self.folder / "wandb_id"
        # An offline log is otherwise written every 15 s, and artifacts are kept in the home folder.
        os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "2")
        os.environ.setdefault("WANDB_DATA_DIR", self._data_dir)
        options: dict[str, Any] = dict(self._wandb_init)
        if "WANDB_SWEEP_ID" in os.environ:  # of `wandb agent`
            options["group"] = f"sweep {os.environ['WANDB_SWEEP_ID']}"
        if stored.exists():
            options["id"] = stored.read_text().strip()
        options = from_environment(options)
        settings = wandb.Settings()
        if "WANDB_SILENT" not in os.environ:
            settings.silent = True
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings.init_timeout = self.init_timeout
        settings.finish_timeout_raises = True
        seconds = wandb.setup(settings).settings.init_timeout + service.ANSWER
        for mode in dict.fromkeys((os.environ.get("WANDB_MODE", "online"), "offline", "disabled")):
            init = functools.partial(wandb.init, **options | {"mode": mode}, settings=settings)
            try:
                if mode == "online" and not wandb.login(prompt=False, verify=False):
                    continue
                with none_staged():
                    run = service.within(seconds, init)
                stored.write_text(f"{run.id}\n")
            except Exception as error:  # whatever it is, the training is worth more
                tell(f"W&B {mode}: {one_line(error)}")
                service.give_up()
            else:
                return run
        return Absent()

    @property
    def where(self) -> str:
        """For people: the page of the run, or the command that shows it here; '' where it is disabled."""
        run = self.experiment
        return str(run.url) if run.url else f"W&B offline: wandb leet {place(run)}" if run.offline else ""

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        log = super().log_hyperparams
        self._say(lambda run: log(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        log = super().log_metrics
        try:
            self._say(lambda run: log(metrics, step))
        except Exception as error:
            tell(f"W&B stops logging: {one_line(error)}")
            self._finish(1)
            self._experiment = Absent()

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
        self._say(lambda run: run.summary.update(dict(values)))

    @harmless
    def log_data(self, name: str, description: Mapping[str, Any]) -> None:
        """An artifact of type dataset that only says what the data is; equal data is one version over all runs.

        It is an input of the run. Offline it is an output of it, as W&B takes no inputs there.
        """
        import wandb

        artifact = wandb.Artifact(name, "dataset", metadata=dict(description))
        with artifact.new_file("data.json") as file:
            json.dump(description, file, indent=2, sort_keys=True)
        self._say(lambda run: run.log_artifact(artifact) if run.offline else run.use_artifact(artifact))

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
        if upload and not self.experiment.offline:
            self._uploaded += artifact.size or 0
        self._say(lambda run: run.log_artifact(artifact, aliases=list(aliases)))

    @harmless
    def alert(self, title: str, text: str, level: str) -> None:
        """A message to whom W&B is set to tell. level: INFO, WARN or ERROR."""
        self._say(lambda run: run.alert(title, text, level=level, wait_duration=0))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the W&B run and its process here and not at the end of Python, which may be a kill and has no limit."""
        self._finish(0 if status == "success" else 1)
        if os.environ.get("WANDB_DATA_DIR") == self._data_dir:  # the next run of a sweep has its own
            del os.environ["WANDB_DATA_DIR"]

    def _finish(self, exit_code: int) -> None:
        run, self._experiment = self._experiment, None
        if run is None or isinstance(run, Absent):
            return
        import wandb

        given = run.settings.finish_timeout
        limit = given + service.LAST if given else service.FINISH + self._uploaded / service.UPLOAD
        deadline = time.monotonic() + limit
        try:
            service.within(limit, lambda: run.finish(exit_code=exit_code))
            if wandb.run is None:  # else there is one of somebody else
                service.within(max(service.LAST, deadline - time.monotonic()), wandb.teardown)
        except Exception as error:
            self._give_up(run, error, limit)
