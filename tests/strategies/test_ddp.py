"""Two ranks equal one process on the same global batch, and move only what they must."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")
NETWORKS = {"gan": ("discriminator", "generator"), "vae": ("autoencoder",)}


def train(objective, out, ranks):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, str(WORKER), objective, str(out), f"--ranks={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}-of-{ranks}.pt") for rank in range(ranks)]


@pytest.mark.parametrize("objective", ["gan", "gan-r1-r2", "gan-accumulate-clip", "vae"])
def test_two_ranks_equal_one_process(objective, tmp_path):
    (alone,) = train(objective, tmp_path, ranks=1)
    ranks = train(objective, tmp_path, ranks=2)
    assert alone["images_seen"] == ranks[0]["images_seen"] == 160

    for name, weight in alone["weights"].items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name]), f"ranks differ in {name}"
        difference = (ranks[0]["weights"][name] - weight).abs().max().item()
        assert difference <= 1e-5, f"{name} differs by {difference:.1e} from one process"

    for step in range(20):  # every rank has data and noise of its own: together, those of one process
        for key in ("positions", "latents"):
            both = [rank["seen"][key][step] for rank in ranks]
            assert torch.equal(torch.cat(both), alone["seen"][key][step])
            assert len(torch.cat(both).unique(dim=0)) == 8

    sizes = dict.fromkeys(NETWORKS[objective.split("-")[0]], 0)
    for name, weight in alone["weights"].items():
        sizes[name.split(".")[0]] += weight.numel() * 4
    for rank in ranks:  # each phase reduced its own network's gradients, once, however many micro-batches and penalties
        assert rank["seen"]["bytes"] == [sizes] * 20
