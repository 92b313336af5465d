"""Bytes that a rank holds, by formula, against those that were found at work (docs/strategies.md)."""

import re
from pathlib import Path

import pytest

from trainer.benchmark.count import Network, Phase, Work
from trainer.benchmark.held import held, states

PAGE = (Path(__file__).parents[2] / "docs/strategies.md").read_text(encoding="utf-8")
MEASURED = {
    name: [int(cell.replace(",", "")) for cell in cells.split("|")[:5]]
    for name, cells in re.findall(r"^\| `(\w+)` \| ((?:[\d,]+ \| ?){5})$", PAGE, re.M)
}
GENERATOR = Network(42_060, [10_515], units=3, largest=20_000, moments=2, averaged=True)


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_states_are_those_that_two_ranks_hold(strategy):
    """To 200 bytes and a weight that a cut goes through: what is split is split in rows, and padded."""
    found = states(strategy, GENERATOR, 1 if strategy == "single" else 2)
    kinds = ("parameters", "gradients", "optimizer", "master", "buckets")
    for kind, measured in zip(kinds, MEASURED[strategy], strict=True):
        assert found[kind] == pytest.approx(measured, abs=400), kind


def test_the_table_was_found():
    assert [*MEASURED] == ["single", "ddp", "fsdp", "zero1", "zero2", "zero3"]


def work(whole=False):
    phases = {"discriminator": Phase(saved=5e6, whole=whole), "generator": Phase(saved=2e6)}
    networks = {"discriminator": GENERATOR, "generator": GENERATOR}
    return Work(phases, networks, fixed=1000, read=3000.0, accumulate=2, half=False)


def test_a_rank_keeps_the_activations_of_a_micro_batch():
    assert held("ddp", work(), 8, images=64)["activations"] == 5e6 * 32
    assert held("ddp", work(), 8, images=64)["frozen"] == 1000


def test_a_penalty_holds_its_network_whole():
    assert "gathered" not in held("zero2", work(whole=True), 8, 4)
    assert held("fsdp", work(), 8, 4)["gathered"] == 4 * 20_000
    assert held("fsdp", work(whole=True), 8, 4)["gathered"] == 2 * 42_060


def test_averages_are_split_as_weights_are():
    assert states("fsdp", GENERATOR, 4)["ema"] == 42_060 / 4
    assert states("zero2", GENERATOR, 4)["ema"] == 42_060
