"""How a network is run: half precision, memory format, compilation. Its weights stay as they are saved."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.compiling import has_cpp_compiler, keep_code
from trainer.process.progress import say

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LONG = 4096
MAX_GRAPHS = 64  # of a network, one for each (batch size, number of tokens); further ones run eagerly


def half(network: nn.Module, dtype: str = "float16") -> nn.Module:
    """Weights rounded to 16 bits: on a GPU computed so, of float32 inputs, to float32 images.

    On a CPU, which computes half precision more slowly, they are rounded, stored in half and computed in float32.
    dtype: "float16" or "bfloat16". Changes `network`.
    """
    if dtype not in HALVES:
        raise UserError(f"passes.half.dtype={dtype}: expected {' or '.join(HALVES)}")
    kind = HALVES[dtype]
    if device_of(network).type == "cpu":
        saved = [each for each in network.state_dict().values() if is_halved(each)]
        if not all(torch.equal(each, each.to(kind).float()) for each in saved):  # else they come from a file of halves
            say(f"half: a CPU computes {dtype} more slowly than float32; weights are stored in it, computed in float32")
        for tensor in (*network.parameters(), *network.buffers()):
            if is_halved(tensor):
                tensor.data = tensor.data.to(kind).float()
        return network.to(torch.float32)  # what modules derive from their weights follows
    network.to(kind)
    network.register_forward_pre_hook(lambda _, inputs: tuple(cast(each, kind) for each in inputs))
    network.register_forward_hook(lambda _, inputs, images: images.float())
    return network


def stored(state: dict[str, Tensor], runtime: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A state dict as it goes into a file: in half precision where `half` is among the nodes of runtime passes."""
    kinds = [HALVES[node.get("dtype", "float16")] for node in runtime if node["_target_"] == f"{__name__}.half"]
    return {key: tensor.to(kinds[-1]) if kinds and is_halved(tensor) else tensor for key, tensor in state.items()}


def is_halved(tensor: Tensor) -> bool:
    """Vectors are few, and scales of int8 among them; the long ones are the values of sparse weights."""
    return tensor.dtype == torch.float32 and (tensor.dim() > 1 or tensor.numel() > LONG)


def channels_last(network: nn.Module) -> nn.Module:
    """Weights of convolutions with channels innermost, as loading leaves them anyway. Changes `network`."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compiled(network: nn.Module, mode: str = "default", dynamic: bool = False) -> nn.Module:
    """Fused and compiled at the first batch of each size, by torch.compile in place, so that state keys stay plain.

    A `Sampler` on a CPU has up to half a batch drawn by the layers as they are, unless it is `fixed` or of that size.

    mode: as of torch.compile. dynamic: one graph for all sizes, which takes a few percent of speed. Within 1e-5 of the
    images' range of eager mode. Without a C++ compiler the network stays eager, and a line says so. Changes `network`.
    """
    if device_of(network).type == "cpu" and not has_cpp_compiler():
        say("compile: no C++ compiler found, the network stays eager: install g++ or clang, or set CXX")
        return network
    return in_graphs(network, mode=mode, dynamic=dynamic)


def cuda_graphs(network: nn.Module) -> nn.Module:
    """Kernels of a call launched at once, by CUDA graphs; `compiled` before it stays in force. Changes `network`.

    An image is to be read or copied before the next call, which writes to the same memory.
    """
    if device_of(network).type != "cuda":
        say(f"cuda_graphs: they need a CUDA GPU, this network is on {device_of(network)}: it runs as before")
        return network
    is_compiled = network._compiled_call_impl is not None
    return in_graphs(network, mode="reduce-overhead") if is_compiled else in_graphs(network, backend="cudagraphs")


def in_graphs(network: nn.Module, dynamic: bool = False, **options: Any) -> nn.Module:
    network._compiled_call_impl = Graphs(network, {"dynamic": dynamic, **options})
    return network


class Graphs:
    """What calling `network` becomes: graphs that torch.compile makes at the first batch of each size.

    It stands where PyTorch keeps a compiled call, which copies of a network do not take with them.
    """

    def __init__(self, network: nn.Module, options: dict[str, Any]):
        self.network, self.options = network, options
        self._call: Any = None
        self._off = False

    def __call__(self, *given: Any) -> Any:
        if self._off:
            return self.network._call_impl(*given)
        if self._call is None:  # not before: the import alone takes a second, and few images need none of it
            keep_code()
            import torch._dynamo

            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\._inductor")  # PyTorch's to itself
            torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
            self._call = torch.compile(self.network._call_impl, **self.options)
        return self._call(*given)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it, the network runs as it is."""
        self._off = True
        try:
            yield
        finally:
            self._off = False


def graphs_of(network: nn.Module) -> Graphs | None:
    """Those that it is drawn by, or what draws only some sizes in its place else leaves to them."""
    call: Any = network._compiled_call_impl
    while hasattr(call, "otherwise"):
        call = call.otherwise
    return call if isinstance(call, Graphs) else None


def cast(value: Tensor | Condition, kind: torch.dtype) -> Any:
    """Floats of a latent or condition in another precision; masks and token ids stay."""
    if isinstance(value, Condition):
        return value.map(lambda part: cast(part, kind))
    return value.to(kind) if value.is_floating_point() else value


def device_of(network: nn.Module) -> torch.device:
    """Where it computes: in a training its strategy knows, as weights may rest in main memory."""
    strategy = getattr(network, "strategy", None)
    return strategy.root_device if strategy else next(chain(network.parameters(), network.buffers())).device


def beside(network: nn.Module) -> Any:
    """What draws batches of up to `max_batch` images in its place, and rounds otherwise; None if nothing does."""
    call = network._compiled_call_impl
    return call if hasattr(call, "max_batch") else None


def is_compiled(module: nn.Module) -> bool:
    """By `torch.compile(module)` or `module.compile()`: each number of images anew."""
    call = module._compiled_call_impl
    return type(module).__name__ == "OptimizedModule" or (call is not None and not getattr(call, "of_any_size", False))
