"""What DeepSpeed reduces together fits the network."""

import pytest

from trainer.strategies.engine import bucket_size


@pytest.mark.parametrize(
    ("sizes", "elements"),
    [
        ([10_515], 10_515),  # small: all of it
        ([1_000_000] * 25, 6_500_000),  # +scale=gpu: as DDP's
        ([1_000_000] * 100, 25_000_000),  # a quarter
        ([10_000_000] * 1000, 50_000_000),  # large: 200 MB
        ([80_000_000] * 100, 80_000_000),  # or the largest weight
        ([], 1),
    ],
)
def test_a_bucket_is_a_quarter_within_bounds(sizes, elements):
    assert bucket_size(sizes) == elements
