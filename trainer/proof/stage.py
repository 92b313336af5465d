"""A network on its way from the teacher to the fastest: what one pass made of it, and what is known of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.proof.fresh import Fresh
from trainer.proof.size import Size
from trainer.proof.speed import Network, Speed

FILE = "proof.json"


@dataclass
class Stage:
    """What stands after a pass, by its name; the first is what all others are compared with.

    network: (latent, condition) -> images; not kept on disk. note: one line of what the pass did.
    figures: metric -> value, named as trainer.evaluate names them: fd_effnet, attributes_scene, psnr_teacher ...
    """

    name: str
    network: Network | None = None
    note: str = ""
    speed: Speed | None = None
    size: Size | None = None
    figures: dict[str, float] = field(default_factory=dict)
    fresh: Fresh | None = None

    def figure(self, *prefixes: str) -> float | None:
        """The first figure whose name begins so, None where there is none."""
        return next((value for name, value in self.figures.items() if name.startswith(prefixes)), None)

    @property
    def distance(self) -> float | None:
        """The Fréchet distance, whichever backbone it is of."""
        return self.figure("fd_", "fid")

    def as_json(self) -> dict[str, Any]:
        parts = {key: getattr(self, key) for key in ("speed", "size", "fresh")}
        known = {key: asdict(part) if part else None for key, part in parts.items()}
        return {"name": self.name, "note": self.note, "figures": self.figures, **known}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Stage:
        speed, size, fresh = saved["speed"], saved["size"], saved["fresh"]
        if speed:
            rounds = {int(batch): values for batch, values in speed["throughput_rounds"].items()}
            speed = Speed(**{**speed, "throughput_rounds": rounds})
        return Stage(
            **{key: saved[key] for key in ("name", "note", "figures")},
            speed=speed,
            size=Size(**size) if size else None,
            fresh=Fresh(**fresh) if fresh else None,
        )


def write(folder: Path, stages: Sequence[Stage]) -> Path:
    """Writes FOLDER/proof.json; its path."""
    path = folder / FILE
    content = json.dumps({"stages": [stage.as_json() for stage in stages]}, indent=1) + "\n"
    path.write_text(content, encoding="utf-8")
    return path


def read(folder: Path) -> list[Stage]:
    """What `write` kept."""
    return [Stage.from_json(each) for each in json.loads((folder / FILE).read_text(encoding="utf-8"))["stages"]]
