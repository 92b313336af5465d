"""model.onnx: for onnxruntime and everything else that reads ONNX. onnxruntime and numpy alone run it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from trainer.errors import UserError
from trainer.exports.program import Runtime, reason
from trainer.process import caches
from trainer.process.distribution import install
from trainer.process.progress import say
from trainer.size import Resolution

OPSET = 18
AXES = ("N", "L")  # images and tokens, by position
PACKAGES = ("onnx", "onnxscript", "onnx_ir", "onnxruntime")
LARGE = 1024  # numbers of a weight that is worth a node
# what onnxruntime computes by, where its package holds that; each leaves what it does not know to those behind it
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
ON_GPU = ("tensorrt", "cuda")
ASKED_FOR = ("tensorrt", "openvino")  # by name alone: engines take minutes, and which is sooner on a CPU is to be seen
PACKAGES_OF = {"tensorrt": "onnxruntime-gpu tensorrt", "cuda": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}


def require(*packages: str) -> None:
    """UserError where one of these packages is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed, and ONNX needs it: {install('export')}")


def write(exported: ExportedProgram, path: Path, output: str = "images", pixels: bool = False) -> None:
    """pixels: with a second output of that name, `output` in [-1, 1] as uint8."""
    require(*PACKAGES)
    names = list(exported.graph_signature.user_inputs)
    shapes = {node.name: node.meta["val"].shape for node in exported.graph.nodes if node.op == "placeholder"}
    axes = tuple({i: AXES[i] for i, size in enumerate(shapes[name]) if not isinstance(size, int)} for name in names)
    program: Any = torch.onnx.export(
        exported, (), dynamo=True, opset_version=OPSET, input_names=names, output_names=[output],
        dynamic_shapes=axes, verbose=False,
    )  # fmt: skip
    name_dimensions(program.model.graph, axes)
    if pixels:
        add_pixels(program.model.graph)
    store_halves(program.model.graph)
    forget_sources(program.model)
    program.save(path)


def name_dimensions(graph: Any, axes: Sequence[dict[int, str]]) -> None:
    """Gives open dimensions the names of `axes`, a dict an input, in place of those that were traced (s12, 2*s12)."""
    names = {
        value.shape[i].value: name
        for value, each in zip(graph.inputs, axes, strict=True)
        for i, name in each.items()
    }
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        for i, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value:
                value.shape[i] = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.value)


def add_pixels(graph: Any) -> None:
    """A second output: the first as uint8, to the nearest level."""
    import onnx_ir

    value, shape = graph.outputs[0], graph.outputs[0].shape
    for call, number in (("Add", 1.0), ("Mul", 127.5), ("QuantizeLinear", 1.0)):
        constant = onnx_ir.tensor(np.array(number, np.float32), name=f"pixels.{call}")
        kept = onnx_ir.Value(name=constant.name, const_value=constant, shape=onnx_ir.Shape(()), type=value.type)
        graph.register_initializer(kept)
        made = onnx_ir.Value(name=f"pixels.after.{call}", shape=shape, type=value.type)
        graph.append(onnx_ir.node(call, [value, kept], outputs=[made]))
        value = made
    value.name, value.type = "pixels", onnx_ir.TensorType(onnx_ir.DataType.UINT8)
    graph.outputs.append(value)


def store_halves(graph: Any) -> None:
    """Stores weights that are numbers of float16, as `compression=half` leaves them, as such: half the file.

    Runtimes widen them once, when they load.
    """
    import onnx_ir

    for name, value in list(graph.initializers.items()):
        whole = value.const_value.numpy()
        half = whole.astype(np.float16) if whole.dtype == np.float32 and whole.size >= LARGE else whole
        if half is whole or not np.array_equal(half.astype(np.float32), whole):
            continue
        tensor, wide_type = onnx_ir.tensor(half, name=f"{name}.half"), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        stored = onnx_ir.Value(
            name=tensor.name, const_value=tensor, shape=value.shape, type=onnx_ir.TensorType(tensor.dtype)
        )
        del graph.initializers[name]
        graph.register_initializer(stored)
        wide = onnx_ir.Value(name=name, shape=value.shape, type=wide_type)
        value.replace_all_uses_with(wide)
        graph.insert_before(graph[0], onnx_ir.node("Cast", [stored], {"to": wide_type.dtype}, outputs=[wide]))


def optimized(path: Path) -> bytes:
    """model.onnx as onnxruntime has it once it is loaded, on any processor: so that where it loads slowly need not."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # above is this CPU's
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:
        written = Path(folder, path.name)
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        return written.read_bytes()


def forget_sources(model: Any) -> None:
    """Where in which file of this machine each node came from is for nobody else, and a fifth of a file."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)


def providers() -> list[str]:
    """Names of those that the onnxruntime of this machine holds, [] without one."""
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    there = onnxruntime.get_available_providers()
    return [name for name, provider in PROVIDERS.items() if provider in there]


def options(provider: str) -> dict[str, str]:
    """Of a provider: results in float32, as many threads as PyTorch would take, engines that are built once."""
    if provider == "openvino":
        return {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(torch.get_num_threads())}
    if provider == "tensorrt":
        folder = caches.root() / "tensorrt"
        folder.mkdir(parents=True, exist_ok=True)
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    return {}


class Generator(Runtime):
    """Draws with a model.onnx, on a GPU where onnxruntime has one, else on as many threads as PyTorch would take.

    provider: of `PROVIDERS`, by which it does. UserError where onnxruntime was made without it.
    """

    def __init__(
        self,
        path: str,
        latent_channels: int,
        task: Any = None,
        resolution: Resolution = 0,
        provider: str | None = None,
    ):
        super().__init__(latent_channels, task, resolution)
        require("onnxruntime")
        self.path, self.provider = path, ""
        self.use(provider)

    def use(self, provider: str | None) -> None:
        """Draws by that provider from now on."""
        import onnxruntime

        there = providers()
        if provider and provider not in there:
            package = PACKAGES_OF.get(provider)
            remedy = f"python -m pip install {package} in the place of onnxruntime" if package else "say cpu"
            raise UserError(f"{provider}: onnxruntime on this machine has {', '.join(there)}: {remedy}")
        chosen = provider or next(name for name in there if name not in ASKED_FOR)
        behind = [name for name in ("cuda", "cpu") if name in there and (name == "cpu" or chosen in ON_GPU)]
        if chosen == self.provider:
            return
        by = [(PROVIDERS[name], options(name)) for name in dict.fromkeys((chosen, *behind))]
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(self.path, settings, by)
        except Exception as error:  # onnxruntime has a class of its own for each kind, of no common parent
            raise UserError(f"{self.path} is no ONNX program that onnxruntime reads: {reason(error)}") from error
        self.provider, found = chosen, self.session.get_providers()
        if provider and PROVIDERS[provider] not in found:
            say(f"onnxruntime: {provider} could not be started, see its packages: {found[0]} draws")

    def run(self, given: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(self.arrays({name: each.cpu().numpy() for name, each in given.items()}))

    def arrays(self, given: dict[str, Any], output: str = "images") -> Any:
        """The same of numpy's arrays."""
        return self.session.run([output], given)[0]
