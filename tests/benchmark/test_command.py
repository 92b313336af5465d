"""The verb as a user types it, on small networks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.benchmark.__main__ import main

ROOT = Path(__file__).parents[2]
TINY = ["data.source.num_images=60", "data.resolution=16", "data.batch_size=8", "text=scratch"]
NARROW = [f"objective.{n}.{k}=8" for n in ("generator", "discriminator") for k in ("base_channels", "max_channels")]


TODAY = ["objective.feature_matching=1", "objective.reuse_fakes=true"]
AS_DCGAN = ["discriminator@objective.discriminator=dcgan_patches", *TODAY]
AS_CGAN = ["objective=attngan", "generator@objective.generator=attngan", "data.resolution=32", *TODAY]


@pytest.mark.parametrize(
    ("experiment", "more"),
    [
        ("cgan_shapes", []),
        pytest.param("cvae", [], marks=pytest.mark.slow),
        pytest.param("cgan_shapes", AS_DCGAN, marks=pytest.mark.slow),
        pytest.param("cgan_shapes", AS_CGAN, marks=pytest.mark.slow),
    ],
)
def test_one_rank_against_the_bare_loop(command, tmp_path, experiment, more):
    result = command(f"experiment={experiment}", "steps=3", "repeats=2", *TINY, *more, f"out={tmp_path}", main=main)
    assert result.code == 0, result.err
    assert len(re.findall(r"^\d/2  ours +[\d.]+ ms  bare +[\d.]+ ms  ratio [\d.]+", result.err, re.M)) == 2
    for title in ("Speed", "Work", "Communication on 1 rank", "Memory"):
        assert f"## {title}\n" in result.out
    written = json.loads((tmp_path / "benchmark.json").read_text())
    speed, probe = written["speed"], written["probe"]
    assert all(run["images_per_second"] == pytest.approx(8 / run["step_s"]) for run in written["runs"])
    assert set(speed["phases_s"]) == set(speed["bare"]["phases_s"]) == set(probe["phases"])
    assert sum(speed["phases_s"].values()) < 1.5 * speed["step_s"]
    for name, network in probe["networks"].items():
        held = probe["phases"][name]["memory"]
        assert held["parameters"] == held["gradients"] == network["bytes"]
        assert held["optimizer"] >= 2 * network["bytes"]  # Adam's two moments
        assert probe["phases"][name]["flops"] > 0
        assert probe["phases"][name]["saved"] > 4 * 3 * 16 * 16  # an image at least
        assert probe["phases"][name]["bytes"] == {}  # nobody to talk to
    assert "```bash\npython -m trainer.benchmark" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "scaling.png").exists()


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("objective.loss._target_=trainer.losses.adversarial.Hinge", "knows the non-saturating loss alone."),
        ("objective.lecam=0.1", "knows no accumulate, r2, gradient_penalty"),
    ],
)
def test_without_a_bare_loop_it_goes_on_and_says_so(command, tmp_path, other, why):
    result = command(
        "experiment=cgan_shapes", "steps=2", "repeats=1", *TINY, *NARROW, other, "probe=false", f"out={tmp_path}",
        main=main,
    )
    assert result.code == 0, result.err
    assert f"No bare loop: the bare loop {why}" in result.out
    assert json.loads((tmp_path / "benchmark.json").read_text())["probe"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ranks=2"], "ranks=2: expected a list"),
        (["ranks=[0,1]"], "expected a list of numbers of ranks"),
        (["ranks=[1,3]"], "does not split into even parts for 3 ranks; make it a multiple of 6"),
        (["ranks=[1,2]", "strategy=single"], "strategy=single trains on one rank"),
        (["forecast=[8]", "gpu=GTX"], "gpu=GTX: expected measured or one of B200"),
        (["forecast=8"], "forecast=8: expected a list of numbers of GPUs"),
        (["forecast=[8,0]"], "expected a list of numbers of GPUs"),
        (["forecast=[8]", "price=-1"], "price=-1.0: expected the price of a GPU for an hour"),
        (["forecast=[8]", "cluster.of_peak=0"], "cluster.of_peak=0.0: expected more than 0"),
        (["forecast=[8]", "faults.mtbf_hours=0"], "faults.mtbf_hours=0.0: expected more than 0"),
        (["steps=0"], "steps=0, repeats=5: expected at least 1"),
    ],
)
def test_mistakes_take_one_line(command, tmp_path, arguments, message):
    result = command("experiment=cgan_shapes", *TINY, *arguments, f"out={tmp_path}", main=main)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_ranks_scaled_checked_and_drawn(tmp_path):
    arguments = ["experiment=cgan_shapes", "strategy=ddp", "ranks=[1,2]", "steps=3", "repeats=1", *TINY, *NARROW]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.benchmark", *arguments, f"out={tmp_path}"],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((tmp_path / "benchmark.json").read_text())
    rows = {(row["mode"], row["ranks"]): row for row in written["scaling"]}
    assert {key: row["batch_size"] for key, row in rows.items()} == {
        ("weak", 1): 8, ("weak", 2): 16, ("strong", 1): 8, ("strong", 2): 8
    }  # fmt: skip
    assert rows["weak", 1]["efficiency"] == 1
    for mode in ("weak", "strong"):
        probe = rows[mode, 2]["probe"]
        assert len(probe["ranks"]) == 2
        for rank in probe["ranks"]:  # each phase moves the gradients of its own network, on every rank
            assert rank["bytes"] == {name: network["bytes"] for name, network in probe["networks"].items()}
    for row in written["check"]:
        assert row["sum_s"] >= row["overlapped_s"] > 0
        assert row["communication_s"] > 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "![images/s over ranks](scaling.png)" in (tmp_path / "README.md").read_text()
