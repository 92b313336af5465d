"""The meta device: a rank that will hold a share of a network builds it without values, and receives rank 0's."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_parameter_registration_hook

# of `init=RUN`, where only the first rank has something to copy to
warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter in the checkpoint to a meta parameter")


@contextmanager
def without_values() -> Iterator[None]:
    """Within it what a module registers as a parameter has a shape and takes no memory; buffers are as they were."""

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # stays as it is
        return nn.Parameter(parameter.data.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(emptied)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def allocate(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Gives the parameters of `modules` that have no memory some on `device`; what it holds is nobody's."""
    made: dict[nn.Parameter, nn.Parameter] = {}  # what has two names stays one
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if parameter not in made:
                    made[parameter] = nn.Parameter(torch.empty_like(parameter, device=device), parameter.requires_grad)
                module._parameters[name] = made[parameter]


@torch.no_grad()
def receive(unit: nn.Module, device: torch.device) -> None:
    """Puts what is below `unit` on `device`, and into all parameters that are whole yet rank 0's values.

    All ranks call it. These are contiguous then, with no strides but those of their shapes: flat shards know no
    channels-last, and a 1x1 filter in it is contiguous already, but its last stride is not 1.
    """
    allocate(unit.modules(), device)
    for module in unit.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else buffer.to(device)
    for parameter in unit.parameters():
        if not isinstance(parameter, DTensor) and not hasattr(parameter, "ds_tensor"):
            parameter.data = parameter.data.to(device).contiguous().view(-1).view(parameter.shape)
            dist.broadcast(parameter.data, 0)
