"""launch=slurm without a cluster: the script, what is refused, what is printed. tests/slurm has the real thing."""

from __future__ import annotations

import os
import subprocess

import pytest

from trainer.launch.slurm import own

SBATCH = """#!/bin/sh
cp "$2" submitted
[ -z "$REFUSE" ] || { echo "sbatch: error: $REFUSE" >&2; exit 1; }
echo "17;cluster"
"""
FOUR = ("launch=slurm", "nodes=2", "gpus_per_node=4")


@pytest.fixture
def login_node(project, monkeypatch):
    (project / "bin").mkdir()
    (project / "bin/sbatch").write_text(SBATCH)
    (project / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}/bin:{os.environ['PATH']}")
    return project


def directives(script):
    return [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_it_submits_and_says_what_to_type(login_node, command):
    result = command("experiment=small", *FOUR, "run_dir=here")
    assert result.code == 0, result.err
    assert "job         17: 2 nodes x 4 GPUs" in result.out
    assert "squeue -j 17; tail -F here/slurm-17.out" in result.out
    assert "scancel 17" in result.out
    assert [file.name for file in (login_node / "here").iterdir()] == ["job.sbatch"]
    assert (login_node / "here/job.sbatch").read_text() == (login_node / "submitted").read_text()


def test_nothing_is_asked_for_that_was_not_asked_for(login_node, command):
    script = command("experiment=small", *FOUR, "run_dir=here", "launch.dry_run=true").out
    assert not (login_node / "here").exists()
    assert not (login_node / "submitted").exists()
    assert directives(script) == [
        *("job-name=small", f"chdir={login_node}", "output=here/slurm-%j.out", "open-mode=append", "requeue"),
        *("signal=USR1@120", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4"),
    ]
    command_line = ["-m trainer", "+experiment=small", "nodes=2", "gpus_per_node=4", "run_dir=here"]
    assert script.endswith(" \\\n  ".join(command_line) + "\n")


def test_what_is_asked_for_stands_in_the_script(login_node, command):
    asked = [
        *("launch.time=8:00:00", "launch.partition=gpu", "launch.account=a", "launch.qos=q", "launch.constraint=c"),
        *("launch.mem=64G", "launch.cpus_per_task=8", "launch.exclusive=true", "launch.signal_seconds=300"),
        *("launch.sbatch={mail-type: END, requeue: null}", "launch.env={A: 'two words', MASTER_ADDR: h1}"),
        *("launch.setup=[module load cuda]", "launch.python=python3", "launch.dry_run=true"),
    ]
    script = command("experiment=small", *FOUR, *asked).out
    for each in ("time=8:00:00", "partition=gpu", "account=a", "qos=q", "constraint=c", "mem=64G", "cpus-per-task=8",
                 "exclusive", "signal=USR1@300", "mail-type=END"):  # fmt: skip
        assert each in directives(script)
    assert "requeue" not in directives(script)
    lines = script.splitlines()
    assert 'export A="${TRAINER_ENV_A?set it before sbatch}"' in lines and "export=ALL" in directives(script)
    ours = next(number for number, line in enumerate(lines) if line.startswith("MASTER_ADDR=$(scontrol"))
    assert ours < lines.index('export MASTER_ADDR="${TRAINER_ENV_MASTER_ADDR?set it before sbatch}"')
    assert lines.index("module load cuda") < next(i for i, line in enumerate(lines) if line.startswith("exec srun"))
    assert "srun --kill-on-bad-exit=1 --cpus-per-task=8 python3 -m trainer" in script


@pytest.mark.parametrize("given", ["launch.env={WANDB_API_KEY: s3cret}", "+launch.env.WANDB_API_KEY=s3cret"])
def test_the_values_of_the_environment_reach_the_job_and_no_file(login_node, command, given):
    (login_node / "bin/sbatch").write_text(SBATCH + "bash submitted > log 2>&1\n")
    for tool, text in (("srun", 'echo "key $WANDB_API_KEY, A $A"'), ("scontrol", "true")):
        (login_node / "bin" / tool).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (login_node / "bin" / tool).chmod(0o755)
    result = command("experiment=small", *FOUR, given, "+launch.env.A='two words'", "run_dir=here")
    assert result.code == 0, result.err
    assert "key s3cret, A two words" in (login_node / "log").read_text()
    written = [file for file in login_node.rglob("*") if file.is_file() and file.name not in ("log", "sbatch")]
    assert not any("s3cret" in file.read_text(errors="replace") for file in written)
    again = subprocess.run(["bash", "here/job.sbatch"], capture_output=True, text=True)
    assert again.returncode and "TRAINER_ENV_WANDB_API_KEY: set it before sbatch" in again.stderr


def test_no_name_becomes_a_line_of_the_script(login_node, command):
    script = command("experiment=small", *FOUR, '+name="x\ntouch witness"', "launch.dry_run=true").out
    assert not any(line.startswith("touch") for line in script.splitlines())


def test_the_script_is_good_shell_and_quotes_what_needs_it(login_node, command):
    script = command("experiment=small", *FOUR, "run_dir='a b'", "data.source='it is good'", "launch.dry_run=true").out
    assert 'output="a b/slurm-%j.out"' in directives(script)
    assert "export TRAINER_RUN_DIR='a b'" in script
    shown = script.replace("exec srun", "printf '%s\\n'").replace("scontrol", "true")
    words = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "data.source='it is good'" in words


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["launch=slurm"], "gpus_per_node=auto: launch=slurm needs the number of GPUs on each node"),
        (["launch=slurm", "gpus_per_node=5"], "data.batch_size=64: expected a multiple of the 5 ranks"),
        ([*FOUR, "launch.tasks_per_node=2"], "launch.tasks_per_node=2: with gpus_per_node=4"),
        (["launch=slurm", "gpus_per_node=1", "nodes=0"], "nodes=0: expected 1 or more"),
        ([*FOUR, "data.resolutoin=3"], "did you mean data.resolution?"),
        ([*FOUR, "launch.tme=3"], "launch.tme: no such key; did you mean launch.time?"),
        (["launch=slrm"], "launch=slrm: no such option; did you mean slurm?"),
        (["nodes=2"], "nodes=2: this process was not started on several nodes"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(login_node, command, arguments, expected):
    result = command("experiment=small", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert expected in result.err
    assert not (login_node / "submitted").exists()
    assert not (login_node / "outputs").exists()


def test_sbatch_is_quoted_and_nothing_is_left(login_node, command, monkeypatch):
    monkeypatch.setenv("REFUSE", "Invalid account")
    result = command("experiment=small", *FOUR, "run_dir=here")
    assert (result.code, result.err) == (2, "launch=slurm: Invalid account\n")
    assert not (login_node / "here/job.sbatch").exists()


def test_no_sbatch(project, command, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = command("experiment=small", *FOUR, "run_dir=here")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "there is no sbatch here" in result.err


def test_a_sweep_submits_a_job_for_each_value(login_node, command):
    result = command("-m", "experiment=small", "seed=1,2", *FOUR)
    assert result.code == 0, result.err
    scripts = [file.read_text() for file in sorted((login_node / "outputs/sweep").glob("*/*/job.sbatch"))]
    assert ["seed=1" in scripts[0], "seed=2" in scripts[1]] == [True, True]


def test_the_job_trains_what_was_asked_for_and_is_not_launched_again():
    given = ["+experiment=cgan", "launch=slurm", "launch.time=3", "+launch.x=1", "nodes=2", "+experiment=resumed"]
    assert own([*given, "a=launch=b"]) == ["+experiment=cgan", "nodes=2", "a=launch=b"]


def test_a_sampling_is_submitted_too(login_node, command):
    from trainer.sample import main

    (login_node / "captions.txt").write_text("a red apple\n")
    given = ["checkpoint=run", "prompts_file=captions.txt", "images_per_file=10", "out=images"]
    dry = command(*given, *FOUR, "launch.time=1:00:00", "launch.dry_run=true", main=main)
    assert dry.code == 0, dry.err
    assert not (login_node / "images").exists()
    assert {"job-name=sample", "output=images/slurm-%j.out", "requeue", "signal=B:USR1@120", "nodes=2"} <= set(
        directives(dry.out)
    )
    assert " \\\n  ".join(["-m trainer.sample", *given, *FOUR[1:]]) + " &" in dry.out
    assert subprocess.run(["bash", "-n"], input=dry.out, text=True).returncode == 0
    done = command(*given, *FOUR, main=main)
    assert "job         17: 2 nodes x 4 GPUs" in done.out
    assert (login_node / "images/job.sbatch").read_text() == (login_node / "submitted").read_text()
