"""What a process learns of the run from its launcher."""

from __future__ import annotations

import pytest

from trainer import ranks
from trainer.errors import UserError

TORCHRUN = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "6", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "3"}
CASES = {  # environment -> rank, launched
    "alone": ({}, 0, None),
    "torchrun": (TORCHRUN, 5, (2, 4)),
    "srun": (SRUN, 3, (2, 3)),
    "srun without tasks per node": ({**SRUN, "SLURM_NTASKS_PER_NODE": ""}, 3, (2, 3)),
    "torchrun in srun": (SRUN | TORCHRUN, 5, (2, 4)),
    "shell on a node": ({**SRUN, "SLURM_JOB_NAME": "interactive"}, 3, None),
    "child of Lightning": ({"LOCAL_RANK": "2"}, 2, None),
}


@pytest.fixture
def launcher(monkeypatch):
    def set_to(variables):
        for key in {*TORCHRUN, *SRUN, "SLURM_JOB_NAME", "NODE_RANK"}:
            monkeypatch.delenv(key, raising=False)
        for key, value in variables.items():
            monkeypatch.setenv(key, value)

    return set_to


@pytest.mark.parametrize("case", CASES)
def test_rank_and_launched(launcher, case):
    variables, rank, launched = CASES[case]
    launcher(variables)
    assert ranks.rank() == rank
    assert ranks.launched() == launched
    assert ranks.num_nodes(1) == (launched or (1, 0))[0]
    assert ranks.devices("auto") == (launched or (0, "auto"))[1]


def test_no_gpus_mean_the_cpu(launcher):
    launcher({})
    assert (ranks.accelerator(0), ranks.devices(0)) == ("cpu", 1)
    assert (ranks.accelerator(2), ranks.devices(2)) == ("auto", 2)


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
