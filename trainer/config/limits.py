"""Values that no run can have, told before anything is built, by the names that sizes and counts have here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainer.errors import UserError
from trainer.size import Size

SIZE = re.compile(
    r"\w+_channels|width|depth|resolution|patch|vocabulary|max_tokens|num_(?!workers)\w+|nodes|every_steps|accumulate"
    r"|penalty_interval|max_objects|images_per_gpu"
)
LIGHTNINGS = {  # arguments of its Trainer that it would take without effect or refuse: the value that is right, remedy
    "max_epochs": (1, "the data is one endless stream; the budget is kimg=..."),
    "gradient_clip_val": (None, "objective.clip={} clips the gradient of each network"),
    "accumulate_grad_batches": (1, "objective.accumulate={} takes a batch in so many parts"),
}


def check(cfg: DictConfig) -> None:
    """UserError for a size or count below 1, a seed that no generator takes, and settings of Lightning's loop."""
    for key, value in literals(cfg):
        group, _, _ = key.partition(".")
        if group != "trainer" and SIZE.fullmatch(key.rpartition(".")[2]) and value < 1:
            raise UserError(f"{key}={value}: expected 1 or more")
    gpus = cfg.get("gpus_per_node", "auto")
    if gpus != "auto" and not (isinstance(gpus, int) and gpus >= 0):
        raise UserError(f"gpus_per_node={gpus}: expected auto, or a number from 0 on")
    if "objective" not in cfg:  # not of training
        return
    resolution = OmegaConf.select(cfg, "data.resolution", throw_on_missing=False)
    if resolution is not None and any(side % 8 or not 16 <= side <= 1024 for side in Size.of(resolution)):
        also = "" if isinstance(resolution, int) else ", or [height, width] of such"
        raise UserError(f"data.resolution={resolution}: expected a multiple of 8 from 16 to 1024{also}")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: expected 0 to {2**32 - 1}")
    if not 0 <= (dropout := OmegaConf.select(cfg, "text.caption_dropout") or 0) < 1:
        raise UserError(f"text.caption_dropout={dropout}: expected a probability in [0, 1), as 0.1")
    for name, (right, remedy) in LIGHTNINGS.items():
        value = OmegaConf.select(cfg, f"trainer.{name}")
        if value not in (right, None):
            raise UserError(f"trainer.{name}={value}: {remedy.format(value)}")


def literals(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """(dotted key, number) of all numbers that are no references to others."""
    if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        for key, child in node.items_ex(resolve=False):
            yield from literals(child, f"{path}.{key!s}" if path else str(key))
    elif isinstance(node, (int, float)) and not isinstance(node, bool):
        yield path, node
