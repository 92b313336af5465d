"""How a network is run: the same images, the same state keys, and a line where a pass does not help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trainer.batch import Condition
from trainer.compression.fold import fold
from trainer.compression.quantize import quantize
from trainer.compression.search.candidate import RUNTIME
from trainer.errors import UserError
from trainer.sampling import runtime

from .conftest import make, node_of

CONF = Path(__file__).parents[2] / "conf/compression"
BOUND = 1e-5


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("dtype", runtime.HALVES)
def test_half_on_a_cpu_is_stored_so_and_computed_in_float(generator, inputs, dtype, capsys):
    node, network = generator
    before = network(*inputs[0])
    state = runtime.stored(network.state_dict(), [{"_target_": "trainer.sampling.runtime.half", "dtype": dtype}])
    assert {t.dtype for t in state.values() if t.dim() > 1} == {runtime.HALVES[dtype]}
    rounded = runtime.half(network, dtype)
    assert "more slowly" in capsys.readouterr().err
    images = rounded(*inputs[0])
    assert images.dtype == torch.float32
    error = (images - before).square().mean()
    assert 0 < error < 4 / 10 ** (5.0 if dtype == "float16" else 3.5)  # 50 and 35 dB
    again = make(node)
    again.load_state_dict(state)
    assert torch.equal(again(*inputs[0]), images)
    assert torch.equal(runtime.half(again, dtype)(*inputs[0]), images)
    assert capsys.readouterr().err == "", "as of every load of a file that is in half already"


def test_half_of_a_gpu_takes_and_gives_float32(inputs, monkeypatch):
    network = make(node_of("dcgan"))
    before = network(*inputs[0])
    monkeypatch.setattr(runtime, "device_of", lambda _: torch.device("cuda"))
    images = runtime.half(network, "bfloat16")(*inputs[0])
    assert network.start.weight.dtype == torch.bfloat16
    assert images.dtype == torch.float32
    assert 0 < (images - before).abs().mean() < 0.05


def test_casting_leaves_masks_and_token_ids():
    condition = Condition(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 4))
    condition = condition._replace(source=torch.zeros(2, 3, 4, 4))
    kinds = [part.dtype for part in runtime.cast(condition, torch.float16)]
    assert kinds == [torch.int64, torch.bool, torch.float16, torch.float16]


def test_nothing_is_stored_in_half_without_the_pass():
    stored = runtime.stored({"weight": torch.ones(2, 2)}, [{"_target_": "trainer.sampling.runtime.compiled"}])
    assert stored["weight"].dtype == torch.float32


def test_channels_last(inputs):
    network = make(node_of("dcgan")).to(memory_format=torch.contiguous_format)
    before = network(*inputs[0])
    images = runtime.channels_last(network)(*inputs[0])
    assert network.image.weight.is_contiguous(memory_format=torch.channels_last)
    assert distance(images, before) < BOUND


def test_compiled_on_a_machine_without_a_compiler(generator, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "has_cpp_compiler", lambda: False)
    network = runtime.compiled(generator[1])
    assert network._compiled_call_impl is None
    assert "install g++" in capsys.readouterr().err


def test_a_missing_compiler_is_seen():
    from torch._inductor import config, cpp_builder

    assert runtime.has_cpp_compiler()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        cpp_builder.cpp_compiler_search.cache_clear()
        assert not runtime.has_cpp_compiler()
    cpp_builder.cpp_compiler_search.cache_clear()


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", ["dcgan", "dcgan-nearest", "residual"])
@pytest.mark.parametrize("passes", ["", "fold", "int8", "fold int8", "fold dynamic"])
def test_compiled_images(family, passes, inputs):
    network = make(node_of(family))
    if "fold" in passes:
        network = fold(network)
    if "int8" in passes or "dynamic" in passes:
        network = quantize(network, inputs, activations="dynamic" if "dynamic" in passes else "static")
    keys = list(network.state_dict())
    before = network(*inputs[0])
    torch._dynamo.reset()
    compiled = runtime.compiled(network)
    with torch.no_grad():
        images = compiled(*inputs[0])
        assert list(compiled.state_dict()) == keys
        assert torch.equal(compiled(*inputs[0]), images)
    if "int8" in passes or "dynamic" in passes:  # a level of an activation may differ by one where sums round otherwise
        assert 10 * torch.log10(4 / (images - before).square().mean()) > 50
    else:
        assert distance(images, before) < BOUND


@pytest.mark.slow
def test_a_graph_for_each_size_and_no_more(inputs):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = runtime.compiled(make(node_of("dcgan")))
    latent, condition = inputs[0]
    with torch.no_grad():
        for _ in range(2):
            for size in (4, 2, 3):
                network(latent[:size], condition.rows(slice(size)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert torch._dynamo.config.recompile_limit >= runtime.MAX_GRAPHS


def test_cuda_graphs_elsewhere(generator, inputs, capsys):
    network = generator[1]
    before = network(*inputs[0])
    assert runtime.cuda_graphs(network) is network
    assert "need a CUDA GPU, this network is on cpu" in capsys.readouterr().err
    assert torch.equal(network(*inputs[0]), before)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_cuda_graphs(generator, inputs, compiled):
    network = generator[1].cuda()
    latent, condition = (each.to("cuda") for each in inputs[0])
    before = network(latent, condition)
    if compiled:
        runtime.compiled(network)
    runtime.cuda_graphs(network)
    with torch.no_grad():
        for _ in range(4):
            images = network(latent, condition).clone()
    assert (images - before).abs().max() < 1e-3


def test_mistakes_are_told(generator):
    with pytest.raises(UserError, match=r"passes\.half\.dtype=int8: expected float16 or bfloat16"):
        runtime.half(generator[1], "int8")


@pytest.mark.parametrize(
    "name",
    [
        *("fold", "int8", "int8_dynamic", "int8_weights", "fp8"),
        *("half", "channels_last", "compile", "cuda_graphs", "onnxruntime", "aot"),
    ],
)
def test_configs(name, generator, inputs, monkeypatch):
    """Every pass's file names a function and options that it has."""
    monkeypatch.setattr(runtime, "in_graphs", lambda network, **_: network)
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert (CONF / f"{name}.yaml").read_text().startswith(f"# @package passes.{name}\n")
    change = instantiate(node, _convert_="all")
    arguments = (generator[1],) if node["_target_"] in RUNTIME else (generator[1], inputs)
    images = change(*arguments)(*inputs[0])
    assert images.shape == generator[1](*inputs[0]).shape
    assert images.isfinite().all()


@pytest.mark.slow
def test_what_is_compiled_is_kept_with_the_other_caches(tmp_path):
    code = """
import torch
from trainer.sampling import runtime
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
    def forward(self, x):
        return self.layer(x).relu()
with torch.no_grad():
    runtime.compiled(Network())(torch.ones(2, 3))
"""
    kept = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | {"TRAINER_CACHE": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [*(tmp_path / "inductor").rglob("*.py")]


@pytest.mark.slow
def test_what_was_compiled_for_other_kernels_is_left_alone(tmp_path):
    """As on nodes that share a cache. It can fail only where the processor has AVX-512: elsewhere both are one."""
    code = """
import torch
from trainer.sampling import runtime
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(-torch.inf))
    def forward(self, x):
        return torch.where(x, 0.0, self.low)
with torch.no_grad():
    network, x = Network(), torch.arange(240) % 3 == 1
    assert torch.equal(runtime.compiled(network)(x), network.forward(x))
"""
    kept = {key: value for key, value in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}
    for capability in ("avx512", "avx2"):
        env = kept | {"TRAINER_CACHE": str(tmp_path), "ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
