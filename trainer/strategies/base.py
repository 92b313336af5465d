"""What an objective may ask of a strategy. Each network has an engine: where its gradients go and its optimiser lives.

Forward always goes through the raw networks, so attributes, state keys, EMA, compile and double backward stay plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from trainer import noise
from trainer.errors import UserError
from trainer.strategies.ahead import Ahead
from trainer.strategies.blocks import Compiled, recompute
from trainer.strategies.hold import Hold
from trainer.strategies.parts import Part, fill, save_parts
from trainer.strategies.scale import Scale, check_leaves_out

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class PerNetwork:
    """Mixed into a Lightning strategy. The defaults are those of ranks that hold all of everything.

    compile: the networks by torch.compile in a training step, but where they are differentiated twice.
    checkpoint_activations: blocks of the networks keep nothing for their gradients, and run again (`blocks.recompute`).
    sharded_checkpoints: every rank writes what it holds, instead of all of it through rank 0.
    """

    compile = checkpoint_activations = False
    compiled: Compiled | None = None
    sharded_checkpoints = False
    splits_weights = False
    restore_checkpoint_after_setup = True  # weights and states go where the engines have put them
    optimizers: list[Optimizer]
    ahead: Ahead
    holds: list[Hold]  # of each optimiser's network
    waits = False  # for the device in every step, and so leaves one out with any optimiser

    def build(self, node: dict[str, Any], **built: Any) -> Any:
        """The objective that a configuration's `objective` describes, with what is `built` of it already."""
        from hydra.utils import instantiate

        return instantiate(node, _convert_="all", **built)

    def setup(self: Any, trainer: Any) -> None:
        if trainer.precision not in PRECISIONS:
            raise UserError(f"trainer.precision={trainer.precision}: expected one of {', '.join(PRECISIONS)}")
        networks = [trainer.lightning_module.network(name) for name in trainer.lightning_module.phases]
        if self.checkpoint_activations:
            recompute(networks)
        if self.compile:
            self.compiled = Compiled(networks, self.root_device, whole=self.world_size == 1)
        super().setup(trainer)  # type: ignore[misc]
        if self.global_rank:  # the networks are built alike; from here on dropout and such are each rank's own
            seed, rank = trainer.lightning_module.seed, torch.tensor([self.global_rank])
            torch.manual_seed(int(noise.bits(seed, "rank", rank, 1)))

    def setup_optimizers(self: Any, trainer: Any) -> None:
        super().setup_optimizers(trainer)  # type: ignore[misc]
        half = trainer.precision == "16-mixed"
        if half:
            self.precision_plugin.scaler = None  # Lightning's is one for all networks
            if self.root_device.type != "cpu" and not self.waits:
                for optimizer in self.optimizers:
                    check_leaves_out(optimizer)
        self.holds = [(Scale if half else Hold)(self.root_device) for _ in self.optimizers]

    def process_dataloader(self: Any, dataloader: Any) -> Any:
        self.ahead = Ahead(dataloader, self.root_device, self.lightning_module.on_host)
        return self.ahead

    def batch_to_device(self: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        self.ahead.arrive(batch)
        return super().batch_to_device(batch, *arguments, **options)  # type: ignore[misc]

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        with self.compiled.on() if self.compiled else nullcontext():
            return super().training_step(*arguments, **options)  # type: ignore[misc]

    # A step ---------------------------------------------------------------------------------------------------------

    def backward(self, value: Tensor, optimizer: Optimizer, sync: bool = True) -> None:
        """Adds the gradients of `value` to the optimiser's network; with `sync` they are averaged over the ranks."""
        self.hold(optimizer).scaled(value).backward()

    def optimizer_step(self, optimizer: Optimizer, clip: float | None = None, **_: Any) -> dict[str, Tensor]:
        """Steps the optimiser, unless its network is held back. What is to be logged; of the norm, if `clip` limits it.

        Under fp16 it is unscaled first; a step that is left out has the norm of the one before.
        """
        hold = self.hold(optimizer)
        trained = [p for p in parameters(optimizer) if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # no loss has come by: as where it has come by on another rank
                parameter.grad = torch.zeros_like(parameter)
        gradients: list[Any] = [p.grad for p in trained]
        hold.unscale(gradients)
        norm = self.norm(gradients)
        if clip is not None:
            clip_grads_with_norm_(parameters(optimizer), clip, norm)
        logs = hold.see(norm)
        hold.step(optimizer, gradients)
        return {key: value for key, value in logs.items() if key != "gradient_norm" or clip is not None}

    def norm(self, gradients: list[Any]) -> Tensor:
        """() norm of a network's whole gradient, from what this rank has of it."""
        return get_total_norm(gradients)

    def hold(self, optimizer: Optimizer) -> Hold:
        """What holds the network of an optimiser back."""
        return self.holds[[id(each) for each in self.optimizers].index(id(optimizer))]

    @contextmanager
    def full_params(self, network: nn.Module) -> Iterator[None]:
        """Keeps the whole weights of `network` on every rank: to read them, to run it on some ranks alone, or to
        differentiate it twice (then until after the backward). All ranks enter and leave it together."""
        with self.compiled.off(network) if self.compiled else nullcontext():
            yield

    def gather(self, rows: Tensor) -> Tensor:
        """(N, ...) of this rank to those of all ranks, with gradients; for losses over all pairs of a batch."""
        return rows

    # What a rank holds ------------------------------------------------------------------------------------------------

    def part(self, parameter: nn.Parameter) -> Part:
        """The weights of `parameter` that this rank keeps; writing to the tensor changes them."""
        return self.share(parameter.data)

    def share(self, tensor: Tensor) -> Part:
        """What this rank keeps of a tensor made like a parameter: a gradient, a state."""
        return Part(tensor, 0, tensor.shape, whole=True)

    def optimizer_parts(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """For each parameter of the network, in order: name of a state -> Part, or a value that all parts share."""
        states = (optimizer.state.get(p, {}) for p in parameters(optimizer))
        return [
            {k: self.share(v) if is_moment(v, p) else v for k, v in state.items()}
            for p, state in zip(parameters(optimizer), states, strict=True)
        ]

    def fill_optimizer(self, optimizer: Optimizer, states: list[dict[str, Any]]) -> None:
        """Sets the states from whole tensors, one dict for each parameter, in order."""
        for parameter, state in zip(parameters(optimizer), states, strict=True):
            optimizer.state[parameter] = {
                k: torch.zeros_like(parameter.data) if is_moment(v, parameter) else placed(k, v, parameter, optimizer)
                for k, v in state.items()
            }
            for key, moment in optimizer.state[parameter].items():
                if is_moment(moment, parameter):
                    fill(self.share(moment), state[key])

    def memory(self, optimizer: Optimizer) -> dict[str, int]:
        """Bytes that this rank holds for one network, asked between backward and step."""
        held = [self.part(p).tensor for p in parameters(optimizer)]
        gradients = [self.share(p.grad).tensor for p in parameters(optimizer) if p.grad is not None]
        moments = [v.tensor for state in self.optimizer_parts(optimizer) for v in state.values() if isinstance(v, Part)]
        return {"parameters": num_bytes(held), "gradients": num_bytes(gradients), "optimizer": num_bytes(moments)}

    # Checkpoints: whole tensors under plain keys, whatever the strategy and the number of ranks -----------------------

    def save_parts(self: Any, parts: dict[str, Any]) -> dict[str, Any]:
        """`parts` as they go into a checkpoint: whole on rank 0, or what each rank holds. Called on all ranks."""
        return save_parts(parts, self.root_device, self.sharded_checkpoints)

    def lightning_module_state_dict(self: Any) -> dict[str, Any]:
        state = self.lightning_module.state_dict(keep_vars=True)
        return self.save_parts({k: self.part(v) if isinstance(v, nn.Parameter) else v for k, v in state.items()})

    def load_model_state_dict(self: Any, checkpoint: dict[str, Any], strict: bool = True) -> None:
        saved = checkpoint["state_dict"]
        for key, tensor in self.lightning_module.state_dict(keep_vars=True).items():
            if key not in saved:
                raise UserError(f"the checkpoint has no weights for {key}: it is of another model")
            self.fill_weights(tensor, saved[key]) if isinstance(tensor, nn.Parameter) else tensor.copy_(saved[key])

    def fill_weights(self, parameter: nn.Parameter, whole: Tensor) -> None:
        fill(self.part(parameter), whole)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """torch's format: states under the number of the parameter, and the groups' hyper-parameters."""
        flat = {f"{i}.{k}": v for i, state in enumerate(self.optimizer_parts(optimizer)) for k, v in state.items()}
        states: dict[int, dict[str, Any]] = {}
        for name, value in self.save_parts(flat).items():
            number, _, key = name.partition(".")
            states.setdefault(int(number), {})[key] = value
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        hold = self.hold(optimizer)
        return {"state": states, "param_groups": groups} | ({"scale": hold.state()} if isinstance(hold, Scale) else {})

    def load_optimizer_state_dict(self, checkpoint: dict[str, Any]) -> None:
        for optimizer, hold, saved in zip(self.optimizers, self.holds, checkpoint["optimizer_states"], strict=True):
            if isinstance(hold, Scale) and "scale" in saved:
                hold.fill(saved["scale"])
            for group, values in zip(optimizer.param_groups, saved["param_groups"], strict=True):
                group.update({key: value for key, value in values.items() if key != "params"})
            if saved["state"]:
                self.fill_optimizer(optimizer, [saved["state"][i] for i in sorted(saved["state"])])

    def save_checkpoint(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if self.sharded_checkpoints:
            self.checkpoint_io.save_sharded(checkpoint, path)
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def placed(key: str, state: Tensor, parameter: Tensor, optimizer: Optimizer) -> Tensor:
    """A copy of a state that has no value for each weight, where torch's optimisers look for it: beside the parameter.

    Adam's step is on the CPU, unless a fused or a captured kernel reads it.
    """
    on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return state.clone() if key == "step" and not on_device else state.to(parameter.device, copy=True)


def is_moment(value: Any, parameter: Tensor) -> bool:
    """Whether a state has one value for each weight, as Adam's moments and unlike its step."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
