"""Fewer parallel steps of a prior of codes; and every other pass behind it, alone and behind a text encoder."""

from __future__ import annotations

import pytest
import torch

from trainer.batch import Condition
from trainer.compression.few_steps import few_steps
from trainer.errors import UserError
from trainer.networks.token_generators import Steps

from .conftest import TEXT, make, node_of
from .test_pairs import COMPILED, PASSES, STEPS, applied, running
from .test_vocabulary import NODE as WORDED
from .test_vocabulary import batch as batch_of_ids

PLACES, NUM_STEPS = 16, 8
TEXTED = {"text_channels": TEXT, "text": {"_target_": "torch.nn.Identity"}}
SIZES = {"size": 4, "base_channels": 4, "max_channels": 8}
NODE = {
    "_target_": "trainer.networks.token_generators.Parallel",
    "num_steps": NUM_STEPS,
    "prior": {
        "_target_": "trainer.networks.prior.Prior", "_partial_": True, **TEXTED, "width": 32, "num_layers": 2,
    },
    "tokenizer": {
        "_target_": "trainer.networks.tokenizer.Tokenizer",
        "encoder": {"_target_": "trainer.networks.tokenizer.Encoder", "resolution": 16, **SIZES},
        "bottleneck": {"_target_": "trainer.networks.quantizers.FSQ", "levels": [5, 4, 3]},
        "decoder": {
            "_target_": "trainer.networks.tokenizer.Decoder", "resolution": 16, **SIZES, **TEXTED, "style_channels": 16,
        },
    },
}  # fmt: skip
SENTENCED = WORDED | {"generator": NODE}  # with a text encoder inside


def batch(seed: int = 0) -> tuple[torch.Tensor, Condition]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(6)[None] < torch.tensor([1, 3, 6, 4])[:, None]
    tokens, pooled = torch.randn(4, 6, TEXT, generator=draw), torch.randn(4, TEXT, generator=draw)
    return torch.randn(4, 2 * NUM_STEPS * PLACES, generator=draw), Condition(tokens, mask, pooled)


def given(node, seed=0):
    if node is NODE:
        return batch(seed)
    return batch(seed)[0], batch_of_ids(0, 40, seed)[1].rows(range(4))


@pytest.mark.parametrize("node", [NODE, SENTENCED], ids=["features", "ids"])
def test_fewer_steps_are_taken_of_the_same_latent_and_come_back_from_files(node, saved):
    network, inputs = make(node), [given(node)]
    with torch.no_grad():
        small = few_steps(network, inputs, num_steps=2)
        draws = small if node is NODE else small.generator
        calls, step = [], draws.step
        draws.step = lambda *arguments: calls.append(arguments) or step(*arguments)
        images = small(*inputs[0])
        assert len(calls) == 2
        assert not torch.equal(images, network(*inputs[0])), "the network of before has its own steps"
        short = make(node | {"num_steps": 2} if node is NODE else node | {"generator": NODE | {"num_steps": 2}})
        latent, condition = inputs[0]
        assert torch.equal(short(latent[:, : 2 * 2 * PLACES], condition), images), "as if it had been made so"
        assert torch.equal(saved(node, network, small)(*inputs[0]), images)
        once = few_steps(small, inputs, num_steps=1)  # upon itself, and its node upon the first network's
        assert torch.equal(saved(node, network, once)(*inputs[0]), once(*inputs[0]))


def test_what_does_not_fit_is_refused_or_said(capfd):
    inputs = [batch()]
    with pytest.raises(UserError, match="few_steps: this generator does not draw in parallel steps"):
        few_steps(make(node_of("dcgan")), inputs)
    with pytest.raises(UserError, match=r"passes.few_steps.num_steps=0: expected 1 to 8"):
        few_steps(make(NODE), inputs, num_steps=0)
    with pytest.raises(UserError, match=r"num_steps=4: expected 1 to 2"):
        few_steps(few_steps(make(NODE), inputs, num_steps=2), inputs, num_steps=4)
    assert few_steps(make(NODE), inputs, num_steps=8).steps.num_steps == 8
    assert capfd.readouterr().err == "few_steps: it draws in 8 already: nothing changed\n"


@pytest.mark.parametrize("node", [NODE, SENTENCED], ids=["features", "ids"])
@pytest.mark.parametrize("name", [name for name in PASSES if name not in COMPILED])
def test_every_pass_behind_it(name, node, saved):
    """As `test_pairs` has it for other generators. A code is a choice: where logits round, another may be made."""
    network, inputs = make(node), [given(node, seed) for seed in range(2)]
    with torch.no_grad():
        small = few_steps(network, inputs, num_steps=2)
        changed, nodes = applied(small, [name], inputs)
        steps = [module for module in changed.modules() if isinstance(module, Steps)]
        assert [each.num_steps for each in steps] == [2]
        images = changed(*inputs[0])
        assert torch.equal(saved(node, network, changed)(*inputs[0]), images), "saved and loaded it draws the same bits"
        ran = running(changed, nodes)(*inputs[0])
    assert ran.isfinite().all()
    if name not in STEPS:
        alike = (ran - images).flatten(1).abs().amax(1) <= 2e-3
        assert alike.sum() >= 3, "of 4 images"
