"""What a process learns of the run from its launcher."""

from __future__ import annotations

import os
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from trainer import strategies
from trainer.errors import UserError
from trainer.process import ranks
from trainer.strategies.single import Single

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "2"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "6", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}
CASES = {  # environment -> rank, launched
    "alone": ({}, 0, None),
    "torchrun": (TORCHRUN, 5, (2, 4)),
    "srun": (SRUN, 3, (2, 3)),
    "a batch script": (BATCH, 0, None),
    "srun in a shell of salloc": (SRUN | BATCH | {"SLURM_PROCID": "3", "SLURM_JOB_NAME": "interactive"}, 3, (2, 3)),
    "empty variables": ({"SLURM_NTASKS": "", "SLURM_PROCID": "", "SLURM_STEP_ID": ""}, 0, None),
    "torchrun in srun": (SRUN | TORCHRUN, 5, (2, 4)),
    "shell on a node": (BATCH | {"SLURM_JOB_NAME": "interactive"}, 0, None),
    "child of Lightning": ({"LOCAL_RANK": "2"}, 2, None),
}


@pytest.fixture
def launcher(monkeypatch):
    def set_to(variables):
        for key in {*TORCHRUN, *SRUN, *BATCH, "SLURM_NTASKS_PER_NODE", "NODE_RANK"}:
            monkeypatch.delenv(key, raising=False)
        for key, value in variables.items():
            monkeypatch.setenv(key, value)

    yield set_to
    os.environ.pop("TORCHELASTIC_RUN_ID", None)


@pytest.mark.parametrize("case", CASES)
def test_rank_and_launched(launcher, case):
    variables, rank, launched = CASES[case]
    launcher(variables)
    assert ranks.rank() == rank
    assert ranks.launcher_size() == launched
    assert ranks.num_nodes(1) == (launched or (1, 0))[0]
    assert ranks.devices("auto") == (launched or (0, "auto"))[1]


@pytest.mark.parametrize(
    ("variables", "leads", "title"),
    [
        ({}, True, ""),
        (BATCH | {"SLURM_PROCID": "3", "SLURM_JOB_NAME": "interactive"}, True, ""),
        ({"LOCAL_RANK": "2"}, False, "rank 2: "),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True, ""),
        ({"NODE_RANK": "1"}, False, "node 1, process 0: "),
        ({"NODE_RANK": "1", "LOCAL_RANK": "2"}, False, "node 1, process 2: "),
        (TORCHRUN, False, "rank 5: "),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "1"}, True, ""),  # torchrun numbers nodes by itself
    ],
)
def test_one_process_of_all_nodes_leads(launcher, variables, leads, title):
    launcher(variables)
    assert (ranks.leads(), ranks.title()) == (leads, title)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE=2 and RANK=1, but no LOCAL_RANK and no LOCAL_WORLD_SIZE: start"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, "but no LOCAL_WORLD_SIZE: start by torchrun or srun, or"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "WORLD_SIZE=2, but no RANK and no LOCAL_RANK"),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}, None),  # a child of Lightning
        (SRUN | {"WORLD_SIZE": "6", "RANK": "3"}, None),
        (TORCHRUN, None),
        ({}, None),
    ],
)
def test_half_a_launcher_is_told(launcher, variables, words):
    launcher(variables)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        ranks.check_launcher()


def test_lightning_goes_by_the_rank_that_it_is_told(launcher, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # as it is again for the tests behind
    launcher(TORCHRUN)  # by hand, without torchrun
    ranks.tell_lightning()
    assert pl.Trainer(accelerator="cpu", num_nodes=2, devices=4, strategy="ddp", logger=False).global_rank == 5


def test_lightning_goes_by_what_srun_started(launcher):
    launcher(SRUN | BATCH | {"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "8"})
    ranks.tell_lightning()
    assert SLURMEnvironment.detect()
    assert SLURMEnvironment(auto_requeue=False).world_size() == 6
    launcher(BATCH | {"SLURM_JOB_NAME": "bash"})
    ranks.tell_lightning()
    assert not SLURMEnvironment.detect(), "a shell trains alone"
    launcher(BATCH | {"SLURM_NTASKS": "1"})
    ranks.tell_lightning()
    assert not SLURMEnvironment.detect()


def test_a_batch_script_without_srun_is_told_at_once(launcher):
    launcher(BATCH)
    with pytest.raises(UserError, match="6 tasks, but srun did not start this process"):
        ranks.tell_lightning()


def test_gpus_that_are_bound_to_their_tasks_are_told(launcher):
    launcher(SRUN)
    with pytest.raises(UserError, match="--gpus-per-task"):
        ranks.check(1, "auto", visible=1)
    ranks.check(1, "auto", visible=3)
    ranks.check(1, 0, visible=1)


def test_no_gpus_mean_the_cpu(launcher):
    launcher({})
    assert (ranks.accelerator(0), ranks.devices(0)) == ("cpu", 1)
    assert ranks.devices(2) == 2


@pytest.mark.parametrize("gpus", [False, True])
def test_the_accelerator_is_a_gpu_of_cuda_or_the_cpu(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # of which Lightning's `auto` makes use
    assert ranks.accelerator("auto") == ranks.accelerator(1) == ("cuda" if gpus else "cpu")
    assert ranks.accelerator(0) == "cpu"


@pytest.mark.parametrize(
    ("variables", "visible", "given", "words"),
    [
        ({}, 0, (4, "cpu", 4), "gpus_per_node=4: no GPU is visible here; leave it out to train on the CPU"),
        ({}, 1, (4, "cuda", 4), "gpus_per_node=4: 1 GPU is visible here"),
        (TORCHRUN, 0, (4, "cpu", 4), "gpus_per_node=4: no GPU is visible here"),
        ({}, 0, ("auto", "cpu", 2), "trainer.devices=2: no GPU is visible here; with gpus_per_node=0 they"),
        ({}, 0, ("auto", "gpu", "auto"), "trainer.accelerator=gpu: no GPU is visible here"),
        ({}, 0, ("auto", "mps", "auto"), "trainer.accelerator=mps: it has no float64"),
        ({}, 8, ("two", "cuda", "auto"), "gpus_per_node=two: expected auto, or a number from 0"),
        ({}, 8, (-1, "cuda", "auto"), "gpus_per_node=-1: expected auto"),
    ],
)
def test_gpus_that_are_not_here_are_an_error(launcher, variables, visible, given, words):
    launcher(variables)
    with pytest.raises(UserError, match=words):
        ranks.check_devices(visible, *given)


@pytest.mark.parametrize(
    ("variables", "visible", "given"),
    [
        ({}, 0, ("auto", "cpu", "auto")),
        ({}, 0, (0, "cpu", 2)),
        ({}, 4, (4, "cuda", 4)),
        ({}, 4, ("auto", "cuda", "auto")),
        (TORCHRUN, 1, (4, "cuda", 4)),
        (TORCHRUN, 0, ("auto", "cpu", 4)),
    ],
)
def test_gpus_that_are_here_are_not(launcher, variables, visible, given):
    launcher(variables)
    ranks.check_devices(visible, *given)


@pytest.mark.parametrize(
    ("variables", "visible", "given", "expected"),
    [
        ({}, 0, ("cpu", "auto"), "Single"),
        ({}, 0, ("cpu", 2), "DDP"),
        ({}, 1, ("cuda", "auto"), "Single"),
        ({}, 8, ("cuda", "auto"), "DDP"),
        ({}, 8, ("cuda", 1), "Single"),
        ({}, 8, ("cuda", [0, 3]), "DDP"),
        ({}, 8, ("cpu", 1), "Single"),
        (TORCHRUN, 0, ("cpu", 4), "DDP"),
    ],
)
def test_auto_is_ddp_for_several(launcher, monkeypatch, variables, visible, given, expected):
    launcher(variables)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert type(strategies.auto(*given)).__name__ == expected


def test_the_single_device_is_the_trainers(launcher, monkeypatch):
    launcher({})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU, which accelerator=cpu leaves alone
    trainer = pl.Trainer(strategy=Single(), accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device.type == "cpu"
    strategy = Single()
    strategy.parallel_devices = [torch.device("cuda", 1)]  # as Lightning hands over what the accelerator has
    assert strategy.root_device == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("variables", "nodes", "gpus_per_node", "words"),
    [
        ({}, 2, "auto", "nodes=2: this process was not started on several nodes"),
        (TORCHRUN, 3, "auto", "nodes=3: the launcher started processes on 2"),
        (SRUN, 2, 8, "gpus_per_node=8: the launcher started 3 processes a node"),
    ],
)
def test_what_was_not_launched_is_refused(launcher, variables, nodes, gpus_per_node, words):
    launcher(variables)
    with pytest.raises(UserError, match=words):
        ranks.check(nodes, gpus_per_node)


@pytest.mark.parametrize(("variables", "nodes"), [({}, 1), ({"NODE_RANK": "1"}, 2), (TORCHRUN, 1), (SRUN, 2)])
def test_what_was_launched_is_not(launcher, variables, nodes):
    launcher(variables)
    ranks.check(nodes, "auto")
    ranks.check(nodes, 0)
