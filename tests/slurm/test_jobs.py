"""Jobs on a real cluster of two nodes: they meet, save, come back, end, and tell who failed."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.runs.test_resume import same
from tests.sampling.test_shards import tars
from tests.slurm.conftest import OWN, ROOT, STEPS, TINY, TWO_NODES, Jobs

pytestmark = pytest.mark.slurm
SAMPLE = [*(sys.executable, "-m", "trainer.sample", "checkpoint=uninterrupted", "prompts_file=captions.txt"),
          *("seeds=0-3", "images_per_file=10")]  # fmt: skip
WORKERS = "data.num_workers=2"  # SLURM signals them, too
KEYS = ("state_dict", "ema", "optimizer_states", "rng", "images_seen", "global_step")


def final(run: Path) -> dict[str, object]:
    checkpoint = torch.load(run / "checkpoints" / f"kimg{STEPS * 8 / 1000:010.3f}.ckpt", weights_only=True)
    return {key: checkpoint[key] for key in KEYS if key in checkpoint}


def log(jobs: Jobs, run: str, job: str) -> str:
    return (jobs.folder / run / f"slurm-{job}.out").read_text()


@pytest.fixture(scope="module")
def uninterrupted(jobs: Jobs) -> Path:
    job = jobs.train(*TINY, *TWO_NODES, "run_dir=uninterrupted")
    jobs.wait(job, "COMPLETED")
    return jobs.folder / "uninterrupted"


def test_every_rank_of_every_node_has_noise_and_data_of_its_own(uninterrupted):
    first, second = (torch.load(uninterrupted / f"rank{rank}.pt") for rank in range(2))
    assert [first["node"], second["node"]] == ["n1", "n2"]
    for key in ("positions", "latents"):
        rows = torch.cat([torch.cat(first[key]), torch.cat(second[key])]).reshape(STEPS * 8, -1)
        assert len(rows.unique(dim=0)) == STEPS * 8, f"{key} shared by ranks or steps"
    everything = torch.cat([torch.cat(first["positions"]), torch.cat(second["positions"])])
    assert everything.sort().values.tolist() == list(range(STEPS * 8))


def test_a_requeued_job_goes_on_and_ends_with_the_same_bits(jobs, uninterrupted):
    job = jobs.train(*TINY, *TWO_NODES, "run_dir=requeued", WORKERS,
                     "+logger.wandb._target_=trainer.loggers.wandb.WandB",
                     "+logger.wandb.folder=${run_dir}")  # fmt: skip
    jobs.until_saved("requeued")
    identity = (jobs.folder / "requeued/wandb_id").read_text()
    jobs.run("scancel", "--signal=USR1", job)
    jobs.until(lambda: jobs.field(job, "Restarts") == "1", "not requeued")
    saved = jobs.folder / "requeued/checkpoints"
    (saved / "kimg000000.400.ckpt").write_bytes(max(saved.glob("kimg*.ckpt")).read_bytes()[:-100])  # half written
    jobs.wait(job, "COMPLETED")
    words = log(jobs, "requeued", job)
    assert "SIGUSR1: finishing the batch and saving" in words
    assert "kimg000000.400.ckpt is cut short, or no checkpoint: taking an older one" in words
    assert "resumed from  requeued/checkpoints/" in words
    assert "Traceback" not in words
    same(final(jobs.folder / "requeued"), final(uninterrupted))
    assert (jobs.folder / "requeued/wandb_id").read_text() == identity
    runs = [folder.name for folder in (jobs.folder / "requeued/wandb").glob("offline-run-*")]
    assert runs
    assert all(run.endswith(identity.strip()) for run in runs)
    assert (jobs.folder / "requeued/environment.txt").read_text().count("command ") == 2


def test_a_cancelled_job_saves_and_stays_cancelled(jobs, uninterrupted):
    job = jobs.train(*TINY, *TWO_NODES, WORKERS, "run_dir=cancelled")
    before = jobs.until_saved("cancelled")
    jobs.run("scancel", job)
    jobs.wait(job, "CANCELLED")
    words = log(jobs, "cancelled", job)
    assert words.count("SIGTERM: finishing the batch and saving") == 1
    assert "Traceback" not in words
    saved = re.search(r"checkpoint +(cancelled/checkpoints/\S+)", words)
    assert saved
    assert (jobs.folder / saved[1]).name >= before.name
    torch.load(jobs.folder / saved[1], weights_only=True)
    assert "go on " in words
    assert jobs.field(job, "Restarts") == "0"
    jobs.wait(jobs.train("resume=cancelled", *OWN, *TWO_NODES[:3]), "COMPLETED")
    same(final(jobs.folder / "cancelled"), final(uninterrupted))


def test_a_preempted_job_saves_and_comes_back(jobs, uninterrupted):
    job = jobs.train(*TINY, *TWO_NODES, WORKERS, "run_dir=preempted")
    jobs.until_saved("preempted")
    urgent = jobs.run("sbatch", "--parsable", "-purgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    jobs.wait(urgent.strip(), "COMPLETED")
    jobs.wait(job, "COMPLETED")
    assert jobs.field(job, "Restarts") == "1"
    words = log(jobs, "preempted", job)
    assert "SIGTERM: finishing the batch and saving" in words
    same(final(jobs.folder / "preempted"), final(uninterrupted))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_is_named_and_the_run_goes_on_from_its_checkpoint(jobs, uninterrupted, victim):
    run = f"killed{victim}"
    job = jobs.train(*TINY, *TWO_NODES, f"run_dir={run}")
    jobs.until_saved(run)
    os.kill(process(job, victim), signal.SIGKILL)
    struck = time.monotonic()
    jobs.wait(job, "FAILED", seconds=90)
    assert time.monotonic() - struck < 60, "stated in the README"
    words = log(jobs, run, job)
    assert re.search(rf"rank {victim} \(host n{victim + 1}\) .*: stopping; the last checkpoint is {run}/", words), words
    again = jobs.train(f"resume={run}", *OWN, *TWO_NODES[:3])
    jobs.wait(again, "COMPLETED")
    same(final(jobs.folder / run), final(uninterrupted))


def process(job: str, rank: int) -> int:
    """The process of a rank: on this machine, as both nodes are."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"\0trainer\0" in words and wanted <= set(environment) and b"srun" not in words:
            return int(folder.name)
    raise AssertionError(f"no rank {rank} of job {job}")


def test_an_array_trains_each_value_in_its_own_folder(jobs):
    sizes = ["--gpus-per-node=0", "--array=0-2"]
    script = str(ROOT / "launch/sweep.sbatch")
    short = ["kimg=0.08", "gpus_per_node=0", "callbacks.watch.seconds=0"]
    line = jobs.run("sbatch", "--parsable", *sizes, script, *TINY, *short, KEY="seed", VALUES="5 6 7")
    job = line.strip()
    for task in range(3):
        jobs.until(lambda task=task: "COMPLETED" in jobs.state(f"{job}_{task}"), f"task {task} is not done")
    weights = []
    for seed in (5, 6, 7):
        run = jobs.folder / f"outputs/sweep/{job}/seed={seed}"
        assert f"\nseed: {seed}\n" in (run / "config.yaml").read_text()
        checkpoint = torch.load(max((run / "checkpoints").glob("*.ckpt")), weights_only=True)
        weights.append(next(iter(checkpoint["state_dict"].values())))
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_sweep_by_submitit(jobs):
    """The submitter waits for its jobs; they come back into the queue, too, if it was told the signal."""
    pytest.importorskip("submitit")
    sweep = ["-m", "seed=5,6,7", "hydra/launcher=submitit_slurm", "hydra.sweep.dir=submitit"]
    short = ["kimg=0.08", "gpus_per_node=0", "callbacks.watch.seconds=0"]
    jobs.run(sys.executable, "-m", "trainer", *sweep, *TINY, *short, SUBMITIT_PREEMPT_SIGNAL="USR1")
    for number in range(3):
        run = jobs.folder / f"submitit/{number}"
        assert f"\nseed: {5 + number}\n" in (run / "config.yaml").read_text()
        assert any((run / "checkpoints").glob("*.ckpt"))
    assert "#SBATCH --signal=USR1@" in next((jobs.folder / "submitit/.submitit").glob(".sub*.sh")).read_text()


def test_own_script_on_two_nodes(jobs, uninterrupted):
    sizes = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0"]
    script = str(ROOT / "launch/train.sbatch")
    quick = ["gpus_per_node=0", "callbacks.watch.seconds=0"]
    job = jobs.run("sbatch", "--parsable", *sizes, script, *TINY, *quick).strip()
    jobs.wait(job, "COMPLETED")
    same(final(jobs.folder / f"outputs/slurm/{job}"), final(uninterrupted))


def test_srun_within_an_allocation(jobs, uninterrupted):
    quick = ["gpus_per_node=0", "nodes=2", "callbacks.watch.seconds=0", "run_dir=allocated"]
    sizes = ["--nodes=2", "--ntasks-per-node=1"]
    jobs.run("salloc", *sizes, "srun", sys.executable, "-m", "trainer", *TINY, *quick)
    same(final(jobs.folder / "allocated"), final(uninterrupted))


def test_sbatch_refusing_is_one_line(jobs):
    with pytest.raises(AssertionError, match=r"launch=slurm: .*invalid partition"):
        jobs.train(*TINY, *TWO_NODES, "launch.partition=nowhere", "run_dir=refused")
    assert not (jobs.folder / "refused").exists()


@pytest.fixture(scope="module")
def alone(jobs: Jobs, uninterrupted: Path) -> dict[str, bytes]:
    """Tar files of 6,000 images, by one process."""
    captions = [f"a {colour} circle, number {i}" for i in range(500) for colour in ("red", "green", "blue")]
    (jobs.folder / "captions.txt").write_text("\n".join(captions) + "\n")
    jobs.run(*SAMPLE, "out=alone", "processes=1")
    return tars(jobs.folder / "alone")


def sampling(jobs: Jobs, folder: str) -> str:
    """Number of the job that samples on two nodes."""
    words = jobs.run(*SAMPLE, f"out={folder}", "launch=slurm", "nodes=2", "gpus_per_node=0", "launch.tasks_per_node=1")
    found = re.search(r"job +(\d+): 2 nodes x 1 CPU processes", words)
    assert found, words
    return found[1]


def test_a_sampling_on_two_nodes_leaves_the_bytes_of_one_process(jobs, alone):
    job = sampling(jobs, "spread")
    jobs.wait(job, "COMPLETED")
    assert len(alone) == 600
    assert tars(jobs.folder / "spread") == alone
    shares = re.findall(r"process ([01]): (\d+) images in", log(jobs, "spread", job))
    assert sorted(rank for rank, _ in shares) == ["0", "1"]
    assert sum(int(drawn) for _, drawn in shares) == 6000, "none twice"
    assert all(int(drawn) for _, drawn in shares), "each node its share"


def test_a_requeued_sampling_goes_on_and_draws_nothing_twice(jobs, alone):
    folder = jobs.folder / "sampled"
    job = sampling(jobs, "sampled")
    jobs.until(lambda: any(folder.glob("*.tar")), "no file")
    jobs.run("scancel", "--batch", "--signal=USR1", job)  # as SLURM does before the time limit
    jobs.until(lambda: jobs.field(job, "Restarts") == "1", "not requeued")
    jobs.until(lambda: jobs.state(job) == "PENDING", "not waiting")
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.tar")}
    assert 0 < len(before) < 600
    jobs.wait(job, "COMPLETED")
    assert tars(folder) == alone
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    assert not list((folder / ".claims").glob("*-*")), "nothing half drawn stays"
    words = log(jobs, "sampled", job)
    assert "Traceback" not in words
    assert sum(map(int, re.findall(r"process [01]: (\d+) images in", words))) == 6000 - 10 * len(before)
