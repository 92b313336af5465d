"""A checkpoint of any strategy, whole or in parts, goes on under any other and on any number of ranks."""

import pytest
import torch
from matrix import difference, result, run

CASE = "minimax/fp32"
MOVES = [  # saved under, ranks; gone on under, ranks
    ("ddp", 2, "single", 1),
]
MORE = [
    ("zero3", 2, "ddp", 1),
    ("single", 1, "fsdp", 2),
    ("fsdp", 2, "zero3", 2),
    ("zero1", 2, "zero2", 2),
    ("zero2", 2, "ddp", 2),
    ("ddp", 2, "zero1", 2),
    ("fsdp", 2, "fsdp", 1),
    ("zero3", 2, "zero3", 1),
    ("fsdp,replicas=2", 4, "single", 1),
    ("ddp", 2, "fsdp,replicas=2", 4),
]


def moved(saved, ranks, then, on, folder):
    """Saves halfway, both whole and in parts, goes on elsewhere, and compares with the run that stayed."""
    kinds = ["save"] if ranks == 1 else ["save", "sharded"]
    stay = [f"{CASE}/{kind}={kind}.ckpt" for kind in kinds]
    run(saved, ranks, folder, stay)
    go_on = [f"{CASE}/from={kind}.ckpt" for kind in kinds]
    run(then, on, folder, go_on)
    for kind, first, second in zip(kinds, stay, go_on, strict=True):
        assert (folder / f"{kind}.ckpt").is_dir() == (kind == "sharded")
        stayed, went = result(folder, first, ranks), result(folder, second, on)
        assert torch.equal(stayed["images"], went["images"]), "the same weights draw the same"
        found = difference(stayed, went)
        assert found <= 1e-6, f"{kind}: {found:.1e}"
        if (saved, ranks) == (then, on):
            assert found == 0


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_a_checkpoint_moves(move, tmp_path):
    moved(*move, tmp_path)


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("move", MORE, ids=str)
def test_a_checkpoint_moves_further(move, tmp_path):
    moved(*move, tmp_path)


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_going_on_in_place_changes_nothing(strategy, tmp_path):
    moved(strategy, 2, strategy, 2, tmp_path)
    for kind in ("save", "sharded"):
        stayed, went = (result(tmp_path, f"{CASE}/{word}={kind}.ckpt", 2) for word in (kind, "from"))
        for before, after in zip(stayed["optimizer"], went["optimizer"], strict=True):
            for state, other in zip(before["state"].values(), after["state"].values(), strict=True):
                assert state.keys() == other.keys() == {"step", "exp_avg", "exp_avg_sq"}
                assert all(torch.equal(state[key], other[key]) for key in state)
