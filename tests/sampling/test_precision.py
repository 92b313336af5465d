"""precision=bfloat16: what draws runs in it, what judges does not, and figures of the two do not compare."""

from pathlib import Path

import pytest
import torch

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.runs.results import Figure, difference
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.pipeline import Pipeline
from trainer.sampling.sampler import Sampler

HALF = Conditioning(precision="bfloat16")


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 12)

    def forward(self, latent, condition):
        made = self.linear(latent)
        self.seen = made.dtype
        return made.view(-1, 3, 2, 2)


class Objective(torch.nn.Module):
    latent_channels, draws_with, ema, config, trained_steps = 4, "network", {}, {}, 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = Network()

    def ema_weights(self):
        return torch.no_grad()

    def sample(self, latent, condition):
        return self.network(latent, condition)

    def reconstruct(self, images, condition):
        return self.network(images.flatten(1)[:, :4], condition)


def text(captions):
    seen = torch.ones(len(captions), 1, dtype=torch.bool)
    tokens = torch.nn.functional.linear(torch.ones(len(captions), 1, 4), torch.eye(4))
    assert tokens.dtype == torch.float32, "features are those of training"
    return Condition(tokens, seen, tokens[:, 0])


def test_what_draws_runs_in_it():
    objective = Objective()
    plain = Sampler(objective, text)
    half = plain.conditioned(HALF)
    one = plain(["a"] * 40, range(40))
    assert objective.network.seen == torch.float32
    other = half(["a"] * 40, range(40))
    assert objective.network.seen == torch.bfloat16
    distance = (one.int() - other.int()).abs()
    assert 0 < distance.max() <= 2, "rounded, and no more"
    half.reconstruct(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), ["b"] * 3)
    assert objective.network.seen == torch.bfloat16
    plain.reconstruct(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), ["a"] * 3)
    assert objective.network.seen == torch.float32


def test_any_number_at_a_time_draws_the_same():
    half = Sampler(Objective(), text, conditioning=HALF)
    many = half(["a"] * 40, range(40))
    for count in (1, 5, 16):
        few = half(["a"] * count, range(count))
        assert (few.int() - many[:count].int()).abs().max() <= (0 if half.exact else 1)


def test_figures_of_the_two_do_not_compare():
    settings = [each.settings() for each in (Conditioning(), HALF)]
    one, other = (Figure("fd", 1.0, "lower", "x.ckpt", 1.0, protocol) for protocol in settings)
    assert difference(one, one) == 0, "and those of float32 are as they were"
    with pytest.raises(UserError, match=r"one has precision=None, the other bfloat16"):
        difference(one, other)


def test_values():
    with pytest.raises(UserError, match="precision=fp8: expected bfloat16, or null for float32"):
        Conditioning(precision="fp8")
    HALF.require({}, wordless=True)


def test_a_program_computes_as_it_was_exported():
    sampler = Sampler(Objective(), text)
    assert Pipeline(Path("run/kimg1.ckpt"), sampler).conditioned(precision="bfloat16").sampler.conditioning == HALF
    with pytest.raises(UserError, match=r"precision=bfloat16: export/model.onnx computes as it was exported; leave"):
        Pipeline(Path("export/model.onnx"), sampler).conditioned(precision="bfloat16")
