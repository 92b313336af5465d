"""The tiny objectives and the matrix, for the tests of strategies."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "objectives")]


@pytest.fixture(autouse=True)
def environment():
    """Lightning leaves the variables of a launch behind, in which later tests would take themselves for a rank."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
