import time
from itertools import islice

import numpy as np
import pytest

from trainer.data.sampler import BatchStarts, shuffled, shuffled_blocks


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_each_epoch_is_a_permutation(size):
    order = shuffled(3, np.arange(4 * size), size).reshape(4, size)
    assert (np.sort(order) == np.arange(size)).all()


def test_epochs_and_seeds_differ():
    epochs = shuffled(0, np.arange(3000), 1000).reshape(3, 1000)
    other = shuffled(1, np.arange(1000), 1000)
    for a, b in [(epochs[0], epochs[1]), (epochs[1], epochs[2]), (epochs[0], other), (epochs[0], np.arange(1000))]:
        assert (a == b).mean() < 0.01


def test_a_position_does_not_depend_on_its_neighbours():
    whole = shuffled(5, np.arange(500), 37)
    scattered = np.random.default_rng(0).permutation(500)
    assert (shuffled(5, scattered, 37) == whole[scattered]).all()


def test_every_image_is_as_likely_in_every_place():
    size, num_epochs = 10, 4000
    order = shuffled(0, np.arange(size * num_epochs), size).reshape(num_epochs, size)
    counts = np.stack([np.bincount(order[:, place], minlength=size) for place in range(size)])
    deviation = (counts - num_epochs / size) / np.sqrt(num_epochs / size)
    assert abs(deviation).max() < 5
    follows = np.stack([order[:, 0], order[:, 1]], 1) @ [size, 1]  # pairs too, not only places
    pairs = np.bincount(follows, minlength=size * size).reshape(size, size)
    expected = num_epochs / (size * (size - 1))
    assert np.diag(pairs).sum() == 0
    assert abs(pairs[~np.eye(size, dtype=bool)] - expected).max() < 6 * np.sqrt(expected)


@pytest.mark.parametrize(("size", "block"), [(1, 1), (7, 2), (64, 8), (1000, 7), (10, 10), (1003, 16)])
def test_each_epoch_of_blocks_is_a_permutation(size, block):
    order = shuffled_blocks(3, np.arange(4 * size), size, block).reshape(4, size)
    assert (np.sort(order) == np.arange(size)).all()
    scattered = np.random.default_rng(0).permutation(4 * size)
    assert (shuffled_blocks(3, scattered, size, block) == order.reshape(-1)[scattered]).all()
    steps = np.diff(order[:, : size // block * block].reshape(4, -1, block)) % size
    assert (steps == 1).all()  # in a row


def test_a_block_of_one_is_the_order_of_before():
    assert (shuffled_blocks(5, np.arange(500), 37, 1) == shuffled(5, np.arange(500), 37)).all()


def test_blocks_are_shuffled_and_cut_elsewhere_in_each_epoch():
    order = shuffled_blocks(0, np.arange(3000), 1000, 8).reshape(3, 1000)
    starts = order[:, :1000:8]
    assert len({each[0] % 8 for each in starts.tolist()}) > 1
    for a, b in [(starts[0], starts[1]), (starts[1], starts[2]), (starts[0], np.arange(0, 1000, 8))]:
        assert (a == b).mean() < 0.05
    assert (shuffled_blocks(1, np.arange(1000), 1000, 8) == order[0]).mean() < 0.05


def test_every_image_of_blocks_is_as_likely_in_every_place():
    size, num_epochs = 10, 4000
    order = shuffled_blocks(0, np.arange(size * num_epochs), size, 3).reshape(num_epochs, size)
    counts = np.stack([np.bincount(order[:, place], minlength=size) for place in range(size)])
    assert abs((counts - num_epochs / size) / np.sqrt(num_epochs / size)).max() < 5


def test_ten_million_images_cost_no_more_in_the_middle_of_an_epoch():
    size = 10_000_000
    position = np.arange(64) + 7 * size + size // 2
    start = time.process_time()
    order = shuffled(0, position, size)
    assert time.process_time() - start < 0.1  # a stored permutation would take a second and 80 MB
    assert order.min() >= 0 and order.max() < size and len(set(order.tolist())) == 64


def test_batch_starts_count_on_from_any_start():
    assert list(islice(BatchStarts(24, 8), 3)) == [24, 32, 40]
