"""launch=slurm: a training or a sampling as a SLURM job. Writes job.sbatch into its folder and submits it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trainer.errors import UserError
from trainer.runs import run_folder, run_lock


@dataclass
class Slurm:
    """A job of `nodes` x `gpus_per_node` processes. What is None is left to the cluster's own defaults.

    tasks_per_node: processes on each node where gpus_per_node=0. sbatch: further flags, long names without dashes; they
    win over all others, and null takes one away. env: exported; the values, which may be keys, go through sbatch's own
    environment and into no file. setup: shell lines before the run. python: an interpreter, or a command that starts
    one, as it stands in a shell; None for the one that runs this.
    """

    time: int | str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mem: int | str | None = None
    cpus_per_task: int | None = None
    tasks_per_node: int | None = None
    exclusive: bool = False
    sbatch: dict[str, Any] | None = None
    env: dict[str, Any] | None = None
    setup: list[str] | None = None
    signal_seconds: int = 120
    python: str | None = None
    dry_run: bool = False

    def submit(self, cfg: DictConfig) -> None:
        """UserError if the run could not start that way, or sbatch refuses it. A dry run prints and leaves nothing."""
        tasks = self.tasks(cfg)
        if not cfg.images_per_gpu and cfg.data.batch_size % (cfg.nodes * tasks):
            raise UserError(
                f"data.batch_size={cfg.data.batch_size}: expected a multiple of the {cfg.nodes * tasks} ranks "
                f"({cfg.nodes} nodes x {tasks})"
            )
        if cfg.resume:
            from trainer.runs import checkpoint  # here: it needs torch

            run_folder.refuse_another(checkpoint.read(checkpoint.newest(cfg.resume))["config"], cfg)
        arguments = run_folder.arguments()
        if self.dry_run:
            print(self.script(cfg, cfg.name, Path(cfg.run_dir), tasks, TRAINING, "trainer", arguments), end="")
            return
        folder = run_folder.make(cfg)
        run_lock.check(folder)
        self._send(cfg, folder, tasks, self.script(cfg, cfg.name, folder, tasks, TRAINING, "trainer", arguments))

    def submit_sampling(self, cfg: DictConfig, folder: Path) -> None:
        """`trainer.sample` into tar files of `folder`, on as many processes; UserError as above."""
        self._submit_work(cfg, folder, "sample", SAMPLING, sys.argv[1:])

    def submit_preparing(self, cfg: DictConfig, folder: Path) -> None:
        """`trainer.prepare` by as many processes, its script and log in `folder`; UserError as above."""
        self._submit_work(cfg, folder, "prepare", PREPARING, sys.argv[1:])

    def _submit_work(self, cfg: DictConfig, folder: Path, verb: str, template: str, arguments: list[str]) -> None:
        tasks = self.tasks(cfg)
        script = self.script(cfg, verb, folder, tasks, template, f"trainer.{verb}", arguments)
        if self.dry_run:
            print(script, end="")
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._send(cfg, folder, tasks, script)

    def _send(self, cfg: DictConfig, folder: Path, tasks: int, script: str) -> None:
        file = folder / "job.sbatch"
        file.write_text(script, encoding="utf-8")
        try:
            job = sbatch(file, self.exported())
        except UserError:
            file.unlink()
            raise
        log = folder / f"slurm-{job}.out"
        kind = "GPUs" if cfg.gpus_per_node else "CPU processes"
        rows = {
            "job": f"{job}: {cfg.nodes} nodes x {tasks} {kind}",
            "run folder": folder,
            "script": file,
            "log": log,
            "watch": f"squeue -j {job}; tail -F {shlex.quote(str(log))}",
            "cancel": f"scancel {job}",
        }
        print("\n".join(f"  {key:<10}  {value}" for key, value in rows.items()), flush=True)

    def tasks(self, cfg: DictConfig) -> int:
        """Processes on each node: one for each GPU."""
        if cfg.gpus_per_node == "auto":
            raise UserError("gpus_per_node=auto: launch=slurm needs the number of GPUs on each node, 0 for CPUs alone")
        if cfg.gpus_per_node and self.tasks_per_node not in (None, cfg.gpus_per_node):
            raise UserError(
                f"launch.tasks_per_node={self.tasks_per_node}: with gpus_per_node={cfg.gpus_per_node} there is one "
                f"process for each GPU; leave it out"
            )
        tasks = int(cfg.gpus_per_node or self.tasks_per_node or 1)
        if cfg.nodes < 1 or tasks < 1:
            raise UserError(f"nodes={cfg.nodes}, {tasks} processes on each: expected at least 1")
        return tasks

    def flags(self, cfg: DictConfig, name: str, folder: Path, tasks: int, to: str) -> dict[str, Any]:
        """Flags of sbatch, long names; None is left out, True is a bare flag."""
        return {
            "job-name": name,
            "chdir": Path.cwd(),
            "output": folder / "slurm-%j.out",
            "open-mode": "append",
            "requeue": True,
            "signal": f"{to}USR1@{self.signal_seconds}",
            "nodes": cfg.nodes,
            "ntasks-per-node": tasks,
            "gpus-per-node": cfg.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_task,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "mem": self.mem,
            "exclusive": self.exclusive or None,
            "export": "ALL" if self.env else None,
        } | (self.sbatch or {})

    def exported(self) -> dict[str, str]:
        """What sbatch hands on to the job, under names of their own: the script sets MASTER_ADDR and the like first."""
        return {f"{PASSED}{name}": str(value) for name, value in (self.env or {}).items()}

    def script(
        self, cfg: DictConfig, name: str, folder: Path, tasks: int, template: str, module: str, arguments: list[str]
    ) -> str:
        """The text of the job. `arguments` are those of the command line, with or without launch=..."""
        given_flags = self.flags(cfg, name, folder, tasks, to="" if template == TRAINING else "B:")
        flags = {name: value for name, value in given_flags.items() if value is not None}
        lines = [f"#SBATCH --{name}{'' if value is True else f'={quoted(value)}'}" for name, value in flags.items()]
        spread = "" if self.cpus_per_task is None else f" --cpus-per-task={self.cpus_per_task}"  # srun asks anew
        command = [f"{self.python or shlex.quote(sys.executable)} -m {module}", *map(shlex.quote, own(arguments))]
        given = [f'export {name}="${{{PASSED}{name}?set it before sbatch}}"' for name in self.env or {}]
        return template.format(
            name=" ".join(name.split()),
            command=shlex.join(["python", "-m", module, *map(without_values, arguments)]).replace("\n", "\n# "),
            flags="\n".join(lines),
            seconds=self.signal_seconds,
            folder=shlex.quote(str(folder)),
            given="\n".join(["", *given] if given else []),
            setup="\n".join(["", *self.setup, ""] if self.setup else []),
            spread=spread,
            training=" \\\n  ".join(command),
        )


PASSED = "TRAINER_ENV_"  # before the names of launch.env, on their way through sbatch

TRAINING = """#!/usr/bin/env bash
# {name}. Submit it again as it stands and the run goes on from its newest checkpoint.
# Written by: {command}
{flags}

# --signal: {seconds} s before the time limit every rank gets SIGUSR1: the run saves, stops, goes back into the queue,
# waits for its turn there, goes on in the same folder and log, and ends with the same numbers.
# A job that SLURM preempts is saved and requeued, too; one that `scancel` ends is saved, and stays ended.

# The folder of the run, for all its ranks and restarts
export TRAINER_RUN_DIR={folder}
# Where the ranks meet: the first node of the job, a port of its own
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((15000 + SLURM_JOB_ID % 15000)){given}
{setup}
# One process for each rank. One that fails ends all; the others say which it was.
exec srun --kill-on-bad-exit=1{spread} {training}
"""

SAMPLING = """#!/usr/bin/env bash
# Sampling. Submit it again as it stands and it draws what is missing.
# Written by: {command}
{flags}

# --signal: {seconds} s before the time limit the job goes back into the queue; each process loses at most its file.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1{given}
{setup}
# One process for each GPU. One that fails leaves its file to the others.
srun --kill-on-bad-exit=0{spread} {training} &
wait $! || wait $!
"""

PREPARING = """#!/usr/bin/env bash
# Data made ready. Submit it again as it stands and it goes on with what is missing.
# Written by: {command}
{flags}

# --signal: {seconds} s before the time limit the job goes back into the queue; each process loses at most its part.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1{given}
{setup}
# Each process indexes parts that no other has. One that fails leaves its part to the others.
srun --kill-on-bad-exit=0{spread} {training} &
wait $! || wait $!
"""


def own(arguments: list[str]) -> list[str]:
    """Arguments of the run itself, without how it is launched."""
    return [a for a in arguments if not re.match(r"(\+\+?|~)?launch[.=]|\+experiment=resumed$", a)]


def without_values(argument: str) -> str:
    """An argument as it may be written down: without what launch.env is set to."""
    return re.sub(r"^(\+*launch\.env[^=]*=).*", r"\1...", argument, flags=re.DOTALL)


def quoted(value: Any) -> str:
    """A value in an #SBATCH line, where double quotes hold a word together."""
    text = " ".join(str(value).splitlines())
    return f'"{text}"' if re.search(r"[\s#']", text) else text


def sbatch(file: Path, environment: dict[str, str]) -> str:
    """Submits a script with these variables besides ours; the number of the job. UserError with sbatch's own words."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(file)], capture_output=True, text=True, env=os.environ | environment
        )
    except FileNotFoundError as error:
        raise UserError("launch=slurm: there is no sbatch here; run this on a login node of the cluster") from error
    if done.returncode:
        raise UserError(f"launch=slurm: {' '.join(done.stderr.split()).removeprefix('sbatch: error: ')}")
    return done.stdout.strip().partition(";")[0]
