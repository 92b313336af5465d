"""Fewer steps of a generator that draws codes in several parallel ones."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.token_generators import Steps
from trainer.process.progress import say


def few_steps(network: nn.Module, inputs: Sequence[tuple[Tensor, Condition]], num_steps: int = 4) -> nn.Module:
    """The network (of experiment=maskgit) with `num_steps` of its steps; no weight changes, so nothing is trained.

    A latent stays as long as it is, and its first numbers are used: a seed begins as it did. In one step codes are
    drawn independently of each other, given the caption. `inputs` are not looked at. UserError: it has no steps, or not
    so many.
    """
    network = deepcopy(network)
    found = {path: module for path, module in network.named_modules() if isinstance(module, Steps)}
    if not found:
        raise UserError("few_steps: this generator does not draw in parallel steps, as that of experiment=maskgit does")
    for path, steps in found.items():
        if not 1 <= num_steps <= steps.num_steps:
            raise UserError(f"passes.few_steps.num_steps={num_steps}: expected 1 to {steps.num_steps}, what it has")
        if num_steps == steps.num_steps:
            say(f"few_steps: it draws in {num_steps} already: nothing changed")
        network.set_submodule(path, Steps(num_steps, steps.choice_temperature))
    return network
