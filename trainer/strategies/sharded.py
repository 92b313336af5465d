"""What the strategies that split a network's state over the ranks have in common."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from trainer.errors import UserError
from trainer.strategies.ddp import Parallel
from trainer.strategies.meta import allocate, receive, without_values

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # are never called, so nothing would gather them
# A rank steps a part of a flattened network: right where each weight's update hangs on that weight alone.
ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


class Sharded(Parallel):
    """Each rank keeps a share of the optimiser states, and of gradients and weights where the strategy says so."""

    def build(self, node: dict[str, Any], **built: Any) -> Any:
        """On ranks but the first its networks have no values, and take no memory, until `shard` brings their shares."""
        from hydra.utils import instantiate

        with without_values():
            for key, value in node.items() if self.splits_weights and self.global_rank else ():
                if isinstance(value, dict) and value.get("_target_", "").startswith("trainer.networks."):
                    built[key] = instantiate(value, _convert_="all")
        return super().build(node, **built)

    def model_to_device(self) -> None:
        """All but the networks that are split, which `shard` brings a unit at a time."""
        objective: Any = self.lightning_module
        networks = [objective.network(name) for name in objective.phases if self.splits_weights]
        for network in networks:
            network._apply = lambda *_, **__: None  # what `to` calls on each child
        try:
            left = {module for network in networks for module in network.modules()}
            allocate((module for module in objective.modules() if module not in left), self.root_device)
            super().model_to_device()
        finally:
            for network in networks:
                del network._apply

    def configure_ddp(self) -> None:
        objective: Any = self.lightning_module
        networks = {name: objective.network(name) for name in objective.phases}
        for name, network in networks.items():
            check_untied(name, network)
            self.shard(network)
        own = {id(p) for network in networks.values() for p in network.parameters()}
        for tensor in objective.state_dict(keep_vars=True).values():  # rank 0's are everyone's
            if id(tensor) not in own:
                dist.broadcast(tensor.data, 0)

    def shard(self, network: nn.Module) -> None:
        """Gives the weights of a network rank 0's values, and splits them where the strategy says so."""
        receive(network, self.root_device)

    def setup_optimizers(self, trainer: Any) -> None:
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            kind = type(optimizer).__name__
            if kind not in ELEMENTWISE:
                raise UserError(
                    f"{kind} needs whole parameters, which strategy={type(self).__name__.lower()} splits: use one of "
                    f"{', '.join(ELEMENTWISE)}, or strategy=ddp"
                )


def check_untied(name: str, network: nn.Module) -> None:
    tied = len(list(network.named_parameters(remove_duplicate=False))) - len(list(network.named_parameters()))
    if tied:
        raise UserError(f"{name} uses {tied} parameters in several places, which cannot be split: use strategy=ddp")


def units(module: nn.Module, size: int, top: bool = True) -> list[nn.Module]:
    """Blocks below `module` to be gathered one by one, inner ones first."""
    found: list[nn.Module] = []
    for child in module.children():
        inner = units(child, size, top and isinstance(child, CONTAINERS))
        taken = {id(p) for unit in inner for p in unit.parameters()}
        left = sum(p.numel() for p in child.parameters() if id(p) not in taken)
        found += inner
        if not isinstance(child, CONTAINERS) and left and (top or left >= size):
            found.append(child)
    return found
