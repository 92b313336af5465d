"""What passes changed in a network, as a configuration node that builds the changed network again without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from trainer.errors import UserError

REBUILT = "trainer.compression.structure.rebuilt"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SETTINGS = {  # what a layer is built from
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
}
SETTINGS[nn.ConvTranspose2d] = (*SETTINGS[nn.Conv2d], "output_padding")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def rebuilt(
    network: nn.Module, modules: Mapping[str, nn.Module], shapes: Mapping[str, Sequence[int]]
) -> nn.Module:
    """`network` with other modules at some paths and other shapes of some tensors; values come from a state dict.

    modules: {path: module}, outer ones first. shapes: {name of a parameter or buffer: its shape}. Changes `network`.
    """
    for path, module in modules.items():
        network.set_submodule(path, module)
    for name, shape in shapes.items():
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, attribute)
        resize(module, attribute, torch.zeros(tuple(shape), dtype=old.dtype, device=old.device))
    return network


def resize(module: nn.Module, attribute: str, value: Tensor) -> None:
    """Set a parameter or buffer to one of another shape, and the sizes that the module keeps beside it."""
    old = getattr(module, attribute)
    is_parameter = isinstance(old, nn.Parameter)
    setattr(module, attribute, nn.Parameter(value, requires_grad=old.requires_grad) if is_parameter else value)
    shape = value.shape
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    elif isinstance(module, BATCH_NORMS) and len(shape):
        module.num_features = shape[0]
    if attribute != "weight":
        return
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, CONVOLUTIONS):
        if module.groups > 1:  # whole groups come and go
            module.groups = shape[0] * module.groups // module.out_channels
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, TRANSPOSED):
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups


def as_loaded(network: nn.Module) -> nn.Module:
    """The network in the memory format in which one is loaded, where a pass made tensors anew: a 1x1 kernel counts as
    any format, but its strides choose the kernels, which round differently."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def layer_node(layer: nn.Module) -> dict[str, Any]:
    """Node of a Linear, Conv2d or ConvTranspose2d, or of a module that has one, with the sizes it has now."""
    describe = getattr(layer, "node", None)
    if describe:
        return describe()
    kind = next(kind for kind in SETTINGS if type(layer) is kind)
    return {"_target_": f"torch.nn.{kind.__name__}", **settings(layer)}


def settings(layer: nn.Module) -> dict[str, Any]:
    """Arguments that build a Linear, Conv2d or ConvTranspose2d, plain enough for JSON."""
    names = next(names for kind, names in SETTINGS.items() if isinstance(layer, kind))
    values = {name: getattr(layer, name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {"bias": layer.bias is not None}


def changes(original: nn.Module, network: nn.Module) -> dict[str, Any]:
    """{"modules", "shapes"}: what makes `network` of `original` by `rebuilt`, plain enough for JSON.

    Modules in another class's place are asked for their `node()`. UserError where one has none.
    """
    modules = dict(changed_nodes(original, network))
    built = {path: instantiate(each, _convert_="all") for path, each in modules.items()}
    before = {name: tensor.shape for name, tensor in tensors(rebuilt(deepcopy(original), built, {}))}
    after = {name: tensor.shape for name, tensor in tensors(network)}
    if before.keys() != after.keys():
        names = ", ".join(sorted(before.keys() ^ after.keys())[:3])
        raise UserError(f"a pass left a generator that cannot be built again: {names} came or went outside of a module")
    return {"modules": modules, "shapes": {k: list(shape) for k, shape in after.items() if shape != before[k]}}


def tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False))


def changed_nodes(original: nn.Module, network: nn.Module, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, node) of the modules whose class or settings are others than the original's, outer ones first."""
    describe = getattr(network, "node", None)
    node = describe() if describe else None
    if type(network) is not type(original) or (node is not None and node != original.node()):  # type: ignore[operator]
        if node is None or not path:
            raise UserError(
                f"{path or 'the generator'} became a {type(network).__name__}, which a checkpoint cannot build again: "
                "a pass may replace parts of a network by modules with a method node()"
            )
        yield path, node
        original = instantiate(node, _convert_="all")
    children = dict(original.named_children())
    for name, child in network.named_children():
        if name in children:
            yield from changed_nodes(children[name], child, f"{path}.{name}" if path else name)


def node(original_node: Mapping[str, Any], original: nn.Module, network: nn.Module) -> dict[str, Any]:
    """The configuration node of `network`, which passes made of `original`, the network of `original_node`.

    One level of `rebuilt` over the first network, however often it was compressed.
    """
    first = dict(original_node)
    if first.get("_target_") == REBUILT:
        first = first["network"]
        original = instantiate(first, _convert_="all")
    changed = changes(original, network)
    return {"_target_": REBUILT, "network": first, **changed} if any(changed.values()) else first
