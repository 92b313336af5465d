"""Parameters of DeepSpeed's stage 3: split, gathered as they rest, read without its hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.strategies.engine import load_deepspeed
from trainer.strategies.meta import receive
from trainer.strategies.sharded import units

UNIT = 1_000_000  # parameters of a block that goes to the device by itself


def split(network: nn.Module, device: torch.device, config: dict[str, Any]) -> None:
    """Leaves each rank its share of the first rank's weights; no more than a block is whole at a time."""
    zero = load_deepspeed().zero
    known: list[Any] = []
    for unit in [*units(network, UNIT), network]:
        receive(unit, device)
        whole = [parameter for parameter in unit.parameters() if not hasattr(parameter, "ds_tensor")]
        if known:
            known[0].convert_to_zero_parameters(param_list=whole)
        elif whole:
            zero.Init(module=unit, config_dict_or_path=config)
            known = whole


def span(parameter: Any, rank: int) -> tuple[int, int]:
    """First element and number of elements of a parameter that stage 3 keeps on a rank; the last piece is padded."""
    size = parameter.partition_numel()
    start = min(rank * size, parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def renew(parameters: list[Any]) -> None:
    """Puts what ranks keep, as it is, into those that have been gathered rounded. Called by all ranks.

    A backward pass may wait for them, so they cannot be freed and gathered anew.
    """
    for parameter in parameters:
        if parameter.ds_status.name == "AVAILABLE":
            rests = parameter.ds_tensor.to(parameter.device)
            whole = rests.new_empty(rests.numel() * dist.get_world_size())
            dist.all_gather_into_tensor(whole, rests)
            parameter.data.copy_(whole[: parameter.ds_numel].view(parameter.ds_shape))


@contextmanager
def without_hooks(network: nn.Module) -> Iterator[None]:
    """Nothing gathers, frees or compares notes with other ranks when a module of `network` runs."""
    dicts = [hooks for module in network.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    before = [dict(hooks) for hooks in dicts]
    for hooks in dicts:
        for key in [k for k, hook in hooks.items() if getattr(hook, "__module__", "").startswith("deepspeed")]:
            del hooks[key]
    try:
        yield
    finally:
        for hooks, all_of_them in zip(dicts, before, strict=True):  # in the order that they had
            hooks.clear()
            hooks.update(all_of_them)
