"""Whether a backbone may judge a run: not where its features taught a network of that run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_method

from trainer.errors import UserError
from trainer.runs import moved

ROOM = "trainer.backbones."
HOW_SEEN = ("resolution", "resizer")  # arguments that say how images reach a backbone, not which weights it has


def taught_by(node: Any) -> Iterator[dict[str, Any]]:
    """The backbones that a configuration names at any depth, as in objective.discriminator.backbone."""
    if isinstance(node, Mapping):
        if target(node).startswith(ROOM):
            yield dict(node)
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        for child in node:
            yield from taught_by(child)


def require_untaught(judge: Mapping[str, Any], config: Mapping[str, Any], remedy: str) -> None:
    """UserError if the objective of a run learned from the features that are to judge it.

    judge: the node of a backbone. config: that of the run, resolved, or of an export, which keeps as `backbones` what
    taught it; there a run has what taught its teacher or tokenizer. The same weights are meant, at whatever resolution
    either sees images.
    """
    for node in taught_by([config.get("objective"), config.get("backbones")]):
        if target(node) == target(judge) and weights(node, judge) == (own := weights(judge, judge)):
            said = "".join(f" {key}={value}" for key, value in own.items())
            name = target(judge).removeprefix(ROOM).removesuffix(".load")
            raise UserError(f"backbone {name}{said} taught a network of this run; another one has to judge: {remedy}")


def target(node: Mapping[str, Any]) -> str:
    return moved.today(str(node.get("_target_")))


def weights(node: Mapping[str, Any], judge: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a node that say which weights the loader of `judge` takes, also where they are not given."""
    defaults = {key: each.default for key, each in inspect.signature(get_method(target(judge))).parameters.items()}
    return {key: node.get(key, default) for key, default in defaults.items() if key not in HOW_SEEN}
