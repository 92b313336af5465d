"""Where the parts have gone that checkpoints of before name, so that every checkpoint loads."""

from __future__ import annotations

from typing import Any

from trainer.errors import UserError

VERSION = 2  # of what checkpoints and exports hold; those of before the first row below have none
MOVED = {  # module or part of before -> of today
    "trainer.backbones.effnet_lite0": "trainer.backbones.effnet_lite",
    "trainer.compression.runtime": "trainer.sampling.runtime",
    "trainer.exports.text.Tokens": "trainer.text.pieces.Tokens",
    "trainer.objectives.drawing.Drawing": "trainer.exports.generator.TrainedGenerator",
    "trainer.schedules": "trainer.objectives.schedules",
}

# keys that runs of before lack: what they did
ADDED = {
    **{"text.uncaptioned": "error", "text.caption_dropout": 0.0, "text.encoder.cached": True},
    **{"tokenizer": None, "data.block_size": 1},
}


def today(target: str) -> str:
    """The name that a part has today. target: `package.module.part`, of this package or any."""
    module, _, name = target.rpartition(".")
    return MOVED.get(target) or f"{MOVED.get(module, module)}.{name}"


def require_known(content: dict[str, Any], file: object) -> None:
    """UserError for what a later version of this package has written."""
    version = content.get("version", 1)
    if not isinstance(version, int) or version > VERSION:
        raise UserError(f"{file} is of version {version!r:.20}, this code reads up to {VERSION}: update it")
