"""Blocks that run again instead of keeping what gradients need, and networks that are compiled."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from conftest_objectives import Reader, make_gan, make_stylegan2, random_batch
from torch import nn
from torch.utils.data import DataLoader

from trainer.benchmark.saved import Saved
from trainer.errors import UserError
from trainer.losses.adversarial import Relativistic
from trainer.networks import transformer
from trainer.networks.modulation import Enlarge
from trainer.strategies import auto
from trainer.strategies.blocks import Compiled, called, recompute, repeated
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single
from trainer.strategies.zero import ZeRO


def trained(objective, steps=3, **options):
    batches = DataLoader([random_batch(start=8 * i) for i in range(steps)], batch_size=None)
    trainer = pl.Trainer(
        strategy=Single("cpu", **options), accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(objective, batches)
    return objective


def same(one, other, atol):
    for (key, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


MAKERS = {
    "gan": lambda: make_gan(Relativistic(), text=Reader, r1=0.1, r2=0.1),
    "stylegan2": lambda: make_stylegan2(text=Reader, r1=0.1, path_length_interval=2),  # lengths of paths, too
}


@pytest.mark.parametrize("name", MAKERS)
def test_weights_are_the_same_without_what_was_kept(name):
    """Of penalties that are exact, and so differentiate twice."""
    same(trained(MAKERS[name]()), trained(MAKERS[name](), checkpoint_activations=True), 1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_of_gradients_of_attention(exact):
    """Written out where a penalty asks for it, also when a block runs again behind the penalty."""
    from trainer.objectives.penalties import differentiable_twice

    found = []
    for again in (False, True):
        torch.manual_seed(0)
        sizes = {"resolution": 16, "text_channels": 12, "width": 16, "depth": 2, "num_heads": 2}
        network = transformer.Discriminator(text=nn.Identity(), **sizes)
        if again:
            recompute([network])
        image = random_batch(4).as_float().image.requires_grad_()
        with differentiable_twice("cpu"):
            score = network.features(image).square().sum()
            (slope,) = torch.autograd.grad(score, image, create_graph=True)
        (slope.square().sum() if exact else score).backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert found[0]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_less_is_kept():
    kept = []
    for again in (False, True):
        torch.manual_seed(0)
        network = transformer.Discriminator(
            resolution=16, text_channels=12, text=nn.Identity(), width=32, depth=6, num_heads=2
        )
        if again:
            recompute([network])
        with Saved(network) as saved:
            network.features(random_batch(8).as_float().image).sum().backward()
        kept.append(saved.total)
    assert kept[1] < kept[0] / 4
    with torch.no_grad():
        network.features(random_batch(8).as_float().image)


def test_blocks_are_what_stands_in_lists_and_has_parts():
    generator = make_stylegan2().generator
    names = {module: name for name, module in generator.named_modules()}
    assert [names[block] for block in repeated(generator)] == ["synthesis.blocks.0", "synthesis.blocks.1"]
    assert repeated(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []
    with pytest.raises(UserError, match="not made of blocks"):
        recompute([nn.Linear(2, 2)])


def test_a_loss_calls_parts_and_those_of_lists():
    network = nn.Module()
    network.text, network.heads = nn.Linear(1, 1), nn.ModuleList([nn.Sequential(nn.Linear(1, 1))])
    assert called(network) == [network.text, network.heads[0]]


def test_what_is_compiled_runs_within_a_step_and_not_where_it_is_differentiated_twice():
    network, other = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    compiled = Compiled([network, other], torch.device("cpu"))
    modules = (network, network[0], other)

    def on():
        return [module._compiled_call_impl is not None for module in modules]

    assert on() == [False] * 3, "samples and measurements are those of the checkpoint"
    with compiled.on():
        assert on() == [True] * 3
        with compiled.off(network):
            assert on() == [False, False, True]
        assert on() == [True] * 3
    assert on() == [False] * 3
    assert [*network.state_dict()] == ["0.weight", "0.bias"]


def test_on_several_ranks_parts_are_compiled_so_that_gradients_come_one_after_the_other():
    network = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
    compiled = Compiled([network], torch.device("cpu"), whole=False)
    assert [*compiled.calls] == [network[0], network[1][0]]


@pytest.mark.slow
def test_compiled_weights_after_20_steps():
    """With an exact penalty in every other step."""
    eager, compiled = (
        trained(make_gan(r1=0.1, penalty_interval=2, matching=1.0), steps=20, compile=each) for each in (False, True)
    )
    same(eager, compiled, 1e-5)


@pytest.mark.slow
def test_an_edge_that_is_repeated_has_a_gradient_when_compiled():
    enlarge, image = Enlarge(), random_batch(2).as_float().image.contiguous(memory_format=torch.channels_last)
    image.requires_grad_()
    slopes = []
    for _ in range(2):
        slopes += torch.autograd.grad(enlarge(image).square().sum(), image)
        enlarge.compile()
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("strategy", [DDP, FSDP, partial(ZeRO, stage=1), partial(ZeRO, stage=2)])
def test_networks_are_compiled_on_several_ranks(strategy):
    assert strategy(compile=True).compile and not strategy().compile


def test_compile_is_refused_where_weights_are_split_under_it():
    with pytest.raises(UserError, match=r"strategy.compile=true: stage 3 of DeepSpeed splits weights under a graph"):
        ZeRO(stage=3, compile=True)


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("trainer.strategies.blocks.has_cpp_compiler", lambda: False)
    with pytest.raises(UserError, match="no C\\+\\+ compiler found"):
        Compiled([nn.Linear(1, 1)], torch.device("cpu"))


def test_options_reach_whatever_auto_chooses():
    given = {"checkpoint_activations": True, "reduce_dtype": "bfloat16"}
    alone, several = (auto("cpu", ranks, compile=True, **given) for ranks in (1, 2))
    assert (type(alone).__name__, type(several).__name__) == ("Single", "DDP")
    assert alone.compile and several.compile
    assert alone.checkpoint_activations and several.checkpoint_activations
    assert several.reduce_dtype == "bfloat16"
