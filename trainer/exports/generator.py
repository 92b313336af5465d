"""A trained generator apart from its training: what compression and export leave, and the Hugging Face hub has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download

from trainer.errors import UserError
from trainer.exports import card
from trainer.exports.drawing import Drawing
from trainer.runs import checkpoint
from trainer.runs.drawing import draws
from trainer.runs.export_files import (
    CARD,
    PICTURES,
    TRAINED,
    WEIGHTS,
    is_program,
    without_paths,
    write_settings,
    write_weights,
)
from trainer.runs.judges import taught_by
from trainer.sampling.runtime import stored

# of a run's configuration, beside the generator's
KEPT = ("name", "text", "data", "runtime", "teacher", "matcher", "reward", "backbones")


def configuration(config: dict[str, Any], generator: dict[str, Any]) -> dict[str, Any]:
    """That of a run, with a `TrainedGenerator` as its objective, and without what only training reads."""
    kept = {key: config[key] for key in KEPT if key in config}
    if matcher := config["objective"].get("matcher"):  # it taught the generator, and so may not judge it
        kept["matcher"] = matcher
    if reward := config["objective"].get("reward"):  # so did it
        kept["reward"] = reward
    if backbones := list(taught_by([config["objective"], config.get("backbones")])):  # so did these
        kept["backbones"] = backbones
    return {**kept, "objective": {"_target_": TRAINED, "generator": generator}}


class TrainedGenerator(Drawing, PyTorchModelHubMixin):
    """A `Drawing` as models of the Hugging Face hub are.

    It has `from_pretrained(folder or id)`, `save_pretrained(folder)` and `push_to_hub(id)`.
    """

    @classmethod
    def of(cls, path: str | Path) -> TrainedGenerator:
        """That of a run, a checkpoint or an export, on the CPU. UserError if it draws nothing or is a program."""
        if is_program(Path(path)):
            raise UserError(f"{path} has no weights to take: give the run or {WEIGHTS} that it was made from")
        objective = checkpoint.load(path, as_saved=True)
        if not objective.draws_with:
            raise UserError(f"{path} draws no images: give a run that does, as of cgan or cvae")
        drawing = cls(objective.get_submodule(objective.draws_with)).eval()
        drawing.config = configuration(objective.config, draws(objective)["generator"])
        drawing.images_seen, drawing.source = objective.images_seen, objective.source
        drawing.global_step = objective.trained_steps
        return drawing

    def settings(self) -> dict[str, Any]:
        """What config.json says beside the programs."""
        config = without_paths(self.config)
        return {"images_seen": self.images_seen, "global_step": self.global_step, "config": config}

    # Of the hub's mixin -----------------------------------------------------------------------------------------------

    def save_weights(self, folder: Path) -> None:
        write_weights(folder, stored(self.state_dict(), list(self.config.get("runtime") or ())))

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save_weights(save_directory)
        write_settings(save_directory, self.settings())
        if self.source and self.source.name == WEIGHTS and self.source.parent.resolve() != save_directory.resolve():
            for file in map(self.source.with_name, (CARD, PICTURES)):  # of the export that this was loaded from
                if file.is_file():
                    shutil.copy(file, save_directory)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, **model_kwargs: Any,
    ) -> TrainedGenerator:  # fmt: skip
        if not Path(model_id).is_dir():
            model_id = snapshot_download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        return cls.of(model_id)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        return card.model_card(self.settings(), self.source)
