"""A real process of its own, on a small run."""

from __future__ import annotations

import pytest
import torch

from trainer.compression.comparison.fresh_process import fresh
from trainer.errors import UserError


def test_a_new_process_loads_and_draws(trained):
    held = torch.zeros(300 * 2**20)  # 1.2 GB that are not the child's
    held.fill_(1.0)
    found = fresh(trained, "a red circle", batch=2, repeats=1)
    assert found.batch == 2
    assert 0 < found.load_s < found.first_image_s
    assert 0 < found.import_s < found.first_image_s < 120
    assert 100 * 2**20 < found.peak_bytes < 1000 * 2**20


def test_the_reason_of_a_process_that_failed(tmp_path):
    with pytest.raises(UserError, match=r"does not draw in a process of its own: .*does not exist"):
        fresh(tmp_path / "nothing", "a red circle", batch=2, repeats=1)
