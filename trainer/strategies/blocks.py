"""How the blocks of a network run in a training: compiled, or without keeping what their gradients need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from trainer.errors import UserError
from trainer.process.compiling import has_cpp_compiler, keep_code

GRAPHS = 32  # of a module: one for each number of images or words, each player that is frozen, with gradients or not
LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def repeated(network: nn.Module) -> list[nn.Module]:
    """The outermost blocks that stand in lists and have parts of their own: what a network is a repetition of."""
    found: list[nn.Module] = []
    for child in network.children():
        composed = len([*child.children()]) > 0 and len([*child.parameters()]) > 0
        if isinstance(network, LISTS) and composed:
            found.append(child)
        else:
            found += repeated(child)
    return found


def recompute(networks: Iterable[nn.Module]) -> None:
    """From now on each block keeps its input alone, and runs again in the backward pass (Chen et al. 2016).

    The gradients are the same, also those of a gradient. UserError where the networks have no blocks.
    """
    blocks = {id(block): block for network in networks for block in repeated(network)}
    if not blocks:
        raise UserError("strategy.checkpoint_activations=true: these networks are not made of blocks; leave it out")
    for block in blocks.values():
        block.forward = partial(again, block.forward)


def again(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    written_out = not torch.backends.cuda.flash_sdp_enabled()  # attention, as where a penalty differentiates twice
    runs = nullcontext(), WrittenOut() if written_out else nullcontext()
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=lambda: runs, **options)


class WrittenOut:
    """Within it attention has a second derivative; may be entered again and again."""

    def __init__(self) -> None:
        self.entered: list[Any] = []

    def __enter__(self) -> None:
        self.entered.append(sdpa_kernel(SDPBackend.MATH))
        self.entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self.entered.pop().__exit__(*error)


class Compiled:
    """The compiled networks of a training and their parts, of which each runs so where it is called by itself.

    They are compiled at their first call, in place, so that state keys stay plain. Within `on` the compiled ones run,
    within `off`, in it, those of a network do not: what is compiled cannot be differentiated twice.
    whole: networks as one graph, too; else by their parts alone, as the gradients of a graph come all at once, and none
    of them would be on its way to other ranks while the rest is computed.
    """

    def __init__(self, networks: Iterable[nn.Module], device: torch.device, whole: bool = True):
        if device.type == "cpu" and not has_cpp_compiler():
            raise UserError("strategy.compile=true: no C++ compiler found: install g++ or clang, or set CXX")
        keep_code()
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
        self.calls: dict[nn.Module, Any] = {}
        for network in networks:
            for module in (*[network] * whole, *called(network)):
                module.compile()
                self.calls[module], module._compiled_call_impl = module._compiled_call_impl, None

    @contextmanager
    def on(self) -> Iterator[None]:
        with self.switched(self.calls):
            yield

    @contextmanager
    def off(self, network: nn.Module) -> Iterator[None]:
        with self.switched(dict.fromkeys(module for module in network.modules() if module in self.calls)):
            yield

    @contextmanager
    def switched(self, calls: dict[nn.Module, Any]) -> Iterator[None]:
        before = {module: module._compiled_call_impl for module in calls}
        for module, call in calls.items():
            module._compiled_call_impl = call
        try:
            yield
        finally:
            for module, call in before.items():
                module._compiled_call_impl = call


def called(network: nn.Module) -> list[nn.Module]:
    """What a loss may call of a network: its parts, those of lists one by one."""
    found: list[nn.Module] = []
    for child in network.children():
        found += called(child) if isinstance(child, LISTS[:2]) else [child]
    return found
