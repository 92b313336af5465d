"""The W&B workspace as code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.process.distribution import install

X = "progress/kimg"

# section -> panel -> keys. A key that a run lacks leaves its line out: a VAE has no discriminator.
CURVES: dict[str, dict[str, list[str]]] = {
    "Quality": {
        "Fréchet distance, EfficientNet-Lite0": ["val/fd_effnet"],
    },
    "Stability": {
        "Losses": ["discriminator/loss", "generator/loss", "autoencoder/loss", "matcher/loss"],
        "Logits, higher is real": ["discriminator/real_logits", "discriminator/fake_logits"],
        "Mismatched captions": ["discriminator/mismatch", "generator/mismatch"],
        "Penalties": ["discriminator/r1", "discriminator/r2", "discriminator/gradient_penalty"],
        "Gradient norms, where objective.clip is set": [
            "discriminator/gradient_norm",
            "generator/gradient_norm",
            "autoencoder/gradient_norm",
            "matcher/gradient_norm",
        ],
        "Loss scales, under trainer.precision=16-mixed": [
            "discriminator/loss_scale",
            "generator/loss_scale",
            "autoencoder/loss_scale",
            "matcher/loss_scale",
        ],
        "Learning rates": [
            "discriminator/learning_rate",
            "generator/learning_rate",
            "autoencoder/learning_rate",
            "matcher/learning_rate",
        ],
    },
    "Speed": {
        "Images a second": ["throughput/images_per_second"],
        "Images a second and rank": ["throughput/images_per_second_per_rank"],
        "Waiting for data, %": ["throughput/data_wait_percent"],
        "Phases, ms": [
            "throughput/step_ms",
            "throughput/discriminator_ms",
            "throughput/generator_ms",
            "throughput/autoencoder_ms",
            "throughput/matcher_ms",
        ],
        "Peak memory, GiB": ["memory/peak_gib"],
        "Minutes of devices": ["throughput/device_minutes"],
    },
    "VAE": {
        "Rate, nats an image": ["autoencoder/rate"],
        "Distortion, nats a value": ["autoencoder/distortion"],
    },
    "Matching": {
        "R-precision of held-out images": ["val/r_precision"],
        "Accuracy in a batch": ["matcher/accuracy"],
        "Sentence and word loss": ["matcher/sentence", "matcher/word"],
    },
}
BEST = {"Best so far": "best/value", "Best at kimg": "best/kimg"}  # of the summary
IMAGES, TABLE = "samples/images", "samples/table"
CLOSED = ("VAE", "Matching")  # sections that a click opens
SMOOTH, LOGARITHMIC = ("Stability", "VAE", "Matching"), ("val/fd_effnet",)


def panel_keys() -> set[str]:
    """Every key that a panel shows."""
    curves = {key for panels in CURVES.values() for keys in panels.values() for key in keys}
    return {X, IMAGES, TABLE, *curves, *BEST.values()}


def workspace(entity: str, project: str) -> Any:
    """The workspace; made offline."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(f"trainer.dashboard needs wandb-workspaces: {install('dashboard')}") from error

    def curves(section: str) -> list[Any]:
        return [
            wr.LinePlot(
                title=title,
                x=X,
                y=list(shown),
                title_x="thousand images",
                log_y=any(key in LOGARITHMIC for key in shown),
                smoothing_type="exponential" if section in SMOOTH else "none",
                smoothing_factor=0.6 if section in SMOOTH else 0,
            )
            for title, shown in CURVES[section].items()
        ]

    best = [wr.ScalarChart(title=title, metric=wr.SummaryMetric(key)) for title, key in BEST.items()]
    pictures = wr.MediaBrowser(title="Samples of fixed captions and seeds", media_keys=[IMAGES], num_columns=4)
    table = wr.WeavePanelSummaryTable(table_name=TABLE)
    panels = {
        "Quality": [*curves("Quality"), *best, wr.LinePlot(title="All measurements", x=X, metric_regex="^val/")],
        "Samples": [pictures, table],
        "Stability": curves("Stability"),
        "Speed": curves("Speed"),
        "VAE": curves("VAE"),
        "Matching": curves("Matching"),
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name="trainer",
        sections=[ws.Section(name=name, panels=each, is_open=name not in CLOSED) for name, each in panels.items()],
        settings=ws.WorkspaceSettings(x_axis=X),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
    )


def dump(file: Path) -> None:
    """What --push would send, as JSON."""
    view = workspace("entity", "project")._to_model()  # W&B has no public way to read it
    file.write_text(json.dumps(view.spec.model_dump(by_alias=True, exclude_none=True), indent=2) + "\n")


def push(entity: str | None, project: str) -> str:
    """Saves the workspace beside those that the project has already; its address. UserError without a login."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise UserError("trainer.dashboard --push needs a login: wandb login, or set WANDB_API_KEY")
    try:
        saved = workspace(entity or str(wandb.Api(timeout=20).default_entity), project).save()
    except Exception as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"W&B did not take the dashboard for project {project}: {reason}") from error
    return str(saved.url)
