"""The model as it is set against a measurement, on figures made up so that the answer is known."""

import pytest

from trainer.benchmark import predict
from trainer.benchmark.model import Collective, Interconnect
from trainer.benchmark.plot import draw

MIB = 2**20
LINKS = Interconnect(1.0, 1.0, 100.0, 2)  # of the two ranks that measured


def phase(calls, count):
    return {"flops": 6e9, "calls": {"all_reduce": calls}, "bytes": {"all_reduce": count}}


@pytest.fixture
def result():
    sizes = [2**power for power in range(10, 25, 2)]
    sweep = [{"bytes": n, "seconds": LINKS.seconds(Collective("all_reduce", n), 2)} for n in sizes]
    probe = {
        "phases": {"discriminator": phase(1, 64 * MIB), "generator": phase(2, 32 * MIB)},
        "between_phases": {"calls": {"broadcast": 1}, "bytes": {"broadcast": 0}},
        "networks": {
            "discriminator": {"bytes": 64 * MIB, "units": 2},
            "generator": {"bytes": 32 * MIB, "units": 3},
        },
        "ranks": [{}, {}],
        "sweep": sweep,
    }
    phases = {"discriminator": 0.06, "generator": 0.03}
    one = {"ranks": 1, "batch_size": 8, "step_s": 0.1, "phases_s": phases, "images_per_second": 80}
    two = {"ranks": 2, "batch_size": 16, "step_s": 0.3, "phases_s": phases, "images_per_second": 53}
    apart = {"step_s": 0.2, "phases_s": {"discriminator": 0.12, "generator": 0.06}}
    scaling = [
        {"mode": "weak", **one, "apart": one, "probe": probe | {"ranks": [{}]}},
        {"mode": "weak", **two, "apart": apart, "probe": probe},
    ]
    return {
        "name": "made up", "strategy": "ddp", "precision": "32-true", "speed": one, "environment": {"device": "CPU"},
        "probe": probe | {"ranks": [{}]}, "scaling": scaling,
    }  # fmt: skip


def test_a_step_is_compute_in_company_plus_what_was_counted(result):
    (row,) = predict.check(result)
    assert row["latency_us"] == pytest.approx(100)
    assert row["bandwidth_gib_s"] == pytest.approx(1)
    reductions = (2e-4 + 64 / 1024, 2 * 2e-4 + 32 / 1024)  # all_reduce on 2 ranks: 2 latencies, the bytes once
    between = 1e-4
    assert row["communication_s"] == pytest.approx(sum(reductions) + between)
    assert row["sum_s"] == pytest.approx(0.2 + sum(reductions) + between)
    assert row["overlapped_s"] == pytest.approx(0.2 + between)  # each is hidden by its own backward, 2/3 of the phase


def test_the_picture_is_drawn(result, tmp_path):
    result["check"] = predict.check(result)
    draw(result, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
