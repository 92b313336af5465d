import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.metrics import distributed

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="module")
def alone():
    return runpy.run_path(str(WORKER))["measure"](0, 1)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_metric_is_the_same_on_any_number_of_ranks(num_ranks, alone, tmp_path):
    """Shares of 49 and 191 images, and of 170, none and 70."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen([sys.executable, WORKER, str(rank), str(num_ranks), tmp_path], env=environment)
        for rank in range(num_ranks)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0] * num_ranks
    finally:
        for process in processes:
            process.kill()
    for rank in range(num_ranks):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(alone, rel=1e-6, abs=0)
    assert all(value > 0 for value in alone.values()) and len(set(alone.values())) == len(alone) == 14


def test_alone_sums_stay_and_rows_come_in_order():
    sums = torch.tensor([1.0, 2.0])
    added = distributed.add(sums)
    assert added.dtype == torch.float64 and added.tolist() == [1, 2]
    assert added.data_ptr() != sums.data_ptr()
    rows = distributed.gather(torch.tensor([[20], [0], [10]]), torch.tensor([2, 0, 1]))
    assert rows.tolist() == [[0], [10], [20]]


def test_no_image_counts_twice():
    with pytest.raises(AssertionError, match="measured twice"):
        distributed.gather(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
