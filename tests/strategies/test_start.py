"""Where weights are split, no GPU has a network whole at the start, and no rank but the first has it in main memory."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest_objectives import make_gan
from omegaconf import OmegaConf
from starting import measure

from trainer.config import earlier
from trainer.config.entry import Training, entry
from trainer.strategies.fsdp import FSDP
from trainer.strategies.meta import allocate, without_values
from trainer.strategies.zero import ZeRO

EXPERIMENTS = {file.stem for file in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml")}
OF_RUNS = {"dalle", "maskgit", "gat_latents", "distill", "distill_data", "distill_text", "reward", "reward_tokens"}


def of_rank(rank, make):
    """A strategy that takes itself for another rank's."""
    strategy = make()
    strategy.__class__ = type("OfRank", (type(strategy),), {"global_rank": rank})
    return strategy


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_the_second_rank_never_has_all_weights(strategy, tmp_path):
    (first, weights), (second, _) = measure(strategy, tmp_path)
    assert second < 0.7 * weights < first  # its half, a block, and what was imported and prepared meanwhile


@pytest.mark.parametrize("make", [FSDP, lambda: ZeRO(3)])
def test_networks_follow_a_unit_at_a_time(make):
    strategy, objective = make(), make_gan()
    strategy.__class__ = type("OnMeta", (type(strategy),), {"root_device": torch.device("meta")})
    objective.frozen_part = torch.nn.Linear(2, 2)
    strategy._lightning_module = strategy.model = objective
    strategy.model_to_device()
    assert {p.device.type for p in objective.frozen_part.parameters()} == {"meta"}
    assert {p.device.type for name in objective.phases for p in objective.network(name).parameters()} == {"cpu"}
    assert objective.device.type == "meta"
    assert next(objective.generator.to("meta").parameters()).is_meta  # nothing of it is left behind


@pytest.mark.parametrize(("make", "whole"), [(FSDP, False), (lambda: ZeRO(3), False), (lambda: ZeRO(2), True)])
@pytest.mark.parametrize("rank", [0, 1])
def test_networks_have_no_values_but_on_the_first_rank(make, whole, rank):
    node = {
        "_target_": "types.SimpleNamespace",
        "network": {"_target_": "trainer.networks.layers.TextVector", "text_channels": 3, "out_channels": 4},
        "judge": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    }
    built = of_rank(rank, make).build(node)
    assert {p.is_meta for p in built.network.parameters()} == {rank == 1 and not whole}
    assert not any(p.is_meta for p in built.judge.parameters())
    assert not any(p.is_meta for p in torch.nn.Linear(2, 2).parameters())  # those that are built afterwards


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS - OF_RUNS))
def test_experiments_are_built_so(experiment, command):
    """With all names and shapes, and every network that trains without memory."""
    found = []

    def task(cfg):
        node = OmegaConf.to_container(cfg, resolve=True)["objective"]
        whole, empty = (of_rank(rank, FSDP).build(node) for rank in (0, 1))
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (whole, empty)]
        found.append(shapes[0] == shapes[1])
        found.append(all(p.is_meta for name in empty.phases for p in empty.network(name).parameters()))

    main = partial(entry, task, "config", Training, earlier.register_earlier_runs)
    done = command(f"experiment={experiment}", main=main)
    assert (done.code, found) == (0, [True, True]), done.err[-2000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    quick = ["kimg=0.032", "data.batch_size=16", "data.source.num_images=64", "callbacks.evaluation=null"]
    command = [sys.executable, "-m", "trainer", "+experiment=cgan_shapes", *quick, "callbacks.samples=null"]
    subprocess.run([*command, "logger.wandb=null", f"run_dir={run}"], check=True, capture_output=True)
    return run


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("given", [["cgan_shapes", "init="], ["distill", "teacher="], ["distill_text", "teacher="]])
def test_what_comes_of_other_runs_finds_no_values(given, trained, command):
    """On ranks but the first, which have them from the first."""
    found = []

    def task(cfg):
        config = OmegaConf.to_container(cfg, resolve=True)
        objective = of_rank(1, FSDP).build(config["objective"])
        objective.config = config
        objective.begin()
        found.extend(p.is_meta for name in objective.phases for p in objective.network(name).parameters())

    main = partial(entry, task, "config", Training, earlier.register_earlier_runs)
    done = command(f"experiment={given[0]}", f"{given[1]}{trained}", main=main)
    assert (done.code, {*found}) == (0, {True}), done.err[-2000:]


def test_what_is_read_into_no_memory_is_not_told():
    lines = "import torch", "from trainer.strategies.meta import without_values", "with without_values():"
    code = "\n".join([*lines, " a = torch.nn.Linear(2, 2)", "a.load_state_dict(torch.nn.Linear(2, 2).state_dict())"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_has_two_names_stays_one():
    with without_values():
        pair = torch.nn.ModuleList([torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, bias=False)])
        pair[1].weight = pair[0].weight
    pair[0].weight.requires_grad_(False)
    allocate(pair.modules(), torch.device("cpu"))
    assert pair[0].weight is pair[1].weight
    assert [(p.device.type, p.requires_grad) for p in pair.parameters()] == [("cpu", False), ("cpu", True)]
