"""The tiny objectives and the matrix, for the tests of strategies."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "objectives")]
