"""What the strategies that split a network's state over the ranks have in common."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from trainer.errors import UserError
from trainer.strategies.ddp import Parallel

# A rank steps a part of a flattened network: right where each weight's update hangs on that weight alone.
ELEMENTWISE = ("Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")


class Sharded(Parallel):
    """Each rank keeps a share of the optimiser states, and of gradients and weights where the strategy says so."""

    def configure_ddp(self) -> None:
        objective: Any = self.lightning_module
        networks = {name: objective.network(name) for name in objective.phases}
        for name, network in networks.items():
            check_untied(name, network)
            # Flat shards know no channels-last. A 1x1 filter in it is contiguous already, but its last stride is not 1.
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous().view(-1).view(parameter.shape)
        for tensor in objective.state_dict().values():  # rank 0's weights and buffers are everyone's
            dist.broadcast(tensor, 0)
        for network in networks.values():
            self.shard(network)

    def shard(self, network: nn.Module) -> None:
        """Splits the weights of a network, before its optimiser is made."""

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
