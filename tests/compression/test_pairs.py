"""Every pass alone and upon every other, on every family: what comes out draws, and comes back from files the same."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trainer.compression.search.candidate import RUNTIME
from trainer.errors import UserError

from .conftest import DRAWING, make, node_of

CONF = Path(__file__).parent.parent.parent / "conf" / "compression"
OF_A_RUN = ("finetune", "average")  # these need one; see tests/test_compress.py and test_average.py
OF_IDS = ("vocabulary",)  # this needs a text encoder inside; see test_vocabulary.py
OF_CODES = ("few_steps",)  # and this a generator that draws in steps; see test_few_steps.py
PASSES = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem not in (*OF_A_RUN, *OF_IDS, *OF_CODES))
COMPILED = ("compile", "cuda_graphs", "onnxruntime", "aot")  # seconds each
ROUNDING = 2e-5  # what runs a network otherwise, and what rewrites it exactly, may change images by
STEPS = {"half", "int8", "int8_dynamic"}  # round activations: by the last bit of a float one falls on the next level


def config(name):
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    return node | {"prune": {"multiple_of": 4}, "onnxruntime": {"max_batch": 4}}.get(name, {})


def applied(network, names, inputs):
    """The network to be saved, and as it runs."""
    runs = [name for name in names if config(name)["_target_"] in RUNTIME]
    for name in names:
        if name not in runs:
            network = instantiate(config(name), _convert_="all")(network, inputs)
    return network, [config(name) for name in runs]


def running(network, nodes):
    for node in nodes:
        network = instantiate(node, _convert_="all")(network)
    return network


def check(family, names, inputs, saved):
    torch._dynamo.reset()
    node = node_of(family)
    original = make(node)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    with torch.no_grad():
        plain = original(*inputs[0])
        network, nodes = applied(original, names, inputs)
        assert all(torch.equal(before[key], value) for key, value in original.state_dict().items()), "it stays"
        images = network(*inputs[0])
        assert images.shape == plain.shape
        assert images.isfinite().all()
        assert images.abs().max() <= 1
        back = saved(node, original, network)
        assert torch.equal(back(*inputs[0]), images), "saved and loaded it draws the same bits"
        ran = running(back, nodes)(*inputs[0])
    assert ran.dtype == torch.float32
    if STEPS & {*names}:
        assert (ran - images).square().mean().sqrt() <= 0.01
    else:
        assert (ran - images).abs().max() <= ROUNDING
    return plain, images


@pytest.mark.parametrize("family", DRAWING)
@pytest.mark.parametrize("name", [name for name in PASSES if name not in COMPILED])
def test_alone(family, name, inputs, saved):
    plain, images = check(family, [name], inputs, saved)
    if name in ("fold", "channels_last", "half"):
        assert (images - plain).abs().max() <= ROUNDING


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("family", DRAWING)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_alone(family, name, inputs, saved):
    check(family, [name], inputs, saved)


# A pass that looks for layers in float finds none behind one that left only the last, and says so in one line.
IN_8_BITS = ("fp8", "int8", "int8_dynamic", "int8_weights")
REFUSED = {(first, second) for first in IN_8_BITS for second in (*IN_8_BITS, "prune")}
LAST_IN_FLOAT = ("dcgan", "dcgan-nearest", "residual")  # of others it leaves more, or none


@pytest.mark.slow
@pytest.mark.sampled(17)
@pytest.mark.parametrize("family", DRAWING)
@pytest.mark.parametrize("first", PASSES)
def test_in_pairs(family, first, inputs, saved):
    for second in PASSES:
        if second == first:
            continue
        try:
            check(family, [first, second], inputs, saved)
        except UserError as error:
            known = (first, second) in REFUSED
            assert known or (family not in LAST_IN_FLOAT and first in IN_8_BITS), error
            assert "\n" not in str(error)
        else:
            assert (first, second) not in REFUSED or family not in LAST_IN_FLOAT
