"""Shared by the tests of objectives and strategies."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from conftest_objectives import random_batch


@pytest.fixture()
def batches():
    return [random_batch(start=8 * i) for i in range(4)]
