"""Which process of a run this is, and how many a launcher (torchrun, srun) has started. The standard library only."""

from __future__ import annotations

import os
from typing import Any

from trainer.errors import UserError


def rank() -> int:
    """Number of this process among all; 0 where it is alone."""
    keys = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # torchrun inside srun: its own count is finer
    return next((int(os.environ[key]) for key in keys if os.environ.get(key)), 0)


def leads() -> bool:
    """Whether this process is the first of its run. One that no launcher told of others is, whatever SLURM calls it."""
    if launcher_size():
        return rank() == 0
    return all((os.environ.get(key) or "0") == "0" for key in ("LOCAL_RANK", "NODE_RANK"))  # Lightning started it


def title() -> str:
    """What this process is called in a line to the user, with a colon; nothing where it leads."""
    node = os.environ.get("NODE_RANK") or "0"
    if leads():
        return ""
    return f"rank {rank()}: " if launcher_size() or node == "0" else f"node {node}, process {rank()}: "


def launcher_size() -> tuple[int, int] | None:
    """(nodes, processes on each) of the launcher that started this process; None if nothing did."""
    env = os.environ
    if "LOCAL_WORLD_SIZE" in env:
        return int(env["WORLD_SIZE"]) // int(env["LOCAL_WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    if env.get("SLURM_STEP_ID") and env.get("SLURM_STEP_NUM_TASKS"):  # of srun; a batch script and a shell have none
        nodes = int(env.get("SLURM_STEP_NUM_NODES") or 1)
        return nodes, max(1, int(env["SLURM_STEP_NUM_TASKS"]) // nodes)
    return None


def check_launcher() -> None:
    """UserError where a launcher speaks of several processes but not of those on this machine: each would go alone."""
    env = os.environ
    count, number = int(env.get("WORLD_SIZE") or 1), env.get("RANK")
    missing = [key for key in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if not env.get(key)]
    told = number or env.get("LOCAL_WORLD_SIZE")  # a child of Lightning has neither
    by_srun = launcher_size() and "LOCAL_WORLD_SIZE" not in env
    if count > 1 and told and missing and not by_srun:
        raise UserError(
            f"WORLD_SIZE={count}{f' and RANK={number}' if number else ''}, but no {' and no '.join(missing)}: start by "
            f"torchrun or srun, or set LOCAL_WORLD_SIZE= to the processes on this machine and LOCAL_RANK= to which of "
            f"them this one is, from 0"
        )


def tell_lightning() -> None:
    """Sets what Lightning reads of SLURM to what srun has started: it goes by the job, its name and its flags.

    By RANK it goes only where it sees torchrun; else it counts on each node anew.

    UserError in a job of several tasks that srun did not start: this process would wait for the others for ever.
    """
    env = os.environ
    found = launcher_size()
    if "LOCAL_WORLD_SIZE" in env:
        env.setdefault("TORCHELASTIC_RUN_ID", "none")
    if not (tasks := env.get("SLURM_NTASKS")):
        env.pop("SLURM_NTASKS", None)  # an empty one is none
        return
    if "LOCAL_WORLD_SIZE" in env:
        return
    if found is None:
        if int(tasks) > 1 and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
            raise UserError(
                f"this SLURM job has {tasks} tasks, but srun did not start this process: say srun python -m trainer "
                f"..., or launch=slurm; srun --ntasks=1 for one process alone"
            )
        env["SLURM_JOB_NAME"] = "interactive"  # to Lightning: not started by SLURM
        return
    if env.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        env["SLURM_JOB_NAME"] = "srun"
    nodes, each = found
    env |= {"SLURM_NTASKS": str(nodes * each), "SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(each)}


def num_nodes(nodes: int) -> int:
    """For `trainer.num_nodes`: what a launcher has started, else what the user says."""
    found = launcher_size()
    return found[0] if found else nodes


def devices(gpus_per_node: int | str) -> int | str:
    """For `trainer.devices`: as many as processes were launched on each node, else what the user says."""
    found = launcher_size()
    return found[1] if found else gpus_per_node or 1


def accelerator(gpus_per_node: int | str) -> str:
    """For `trainer.accelerator`: the GPUs where there are any, unless none are wanted. Lightning's `auto` takes MPS."""
    import torch  # what else is here answers without

    return "cuda" if gpus_per_node != 0 and torch.cuda.is_available() else "cpu"


def count(devices: Any, nodes: int, accelerator: str) -> int:
    """Processes of a training by Lightning's arguments: one for each GPU, or as many as are asked for on the CPU."""
    import torch

    if devices in ("auto", -1, "-1"):
        return nodes * (torch.cuda.device_count() if accelerator in ("cuda", "gpu") else 1)
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    return nodes * (int(devices) if isinstance(devices, int | str) else len(devices))


def check_devices(visible: int, gpus_per_node: int | str, accelerator: str, devices: Any) -> None:
    """UserError where GPUs are asked for that this process does not see. visible: how many it does."""
    if gpus_per_node != "auto" and not (isinstance(gpus_per_node, int) and gpus_per_node >= 0):
        raise UserError(f"gpus_per_node={gpus_per_node}: expected auto, or a number from 0")
    if accelerator == "mps":
        raise UserError("trainer.accelerator=mps: it has no float64, which the noise needs; leave it out for the CPU")
    if accelerator in ("gpu", "cuda") and not visible:
        raise UserError(f"trainer.accelerator={accelerator}: no GPU is visible here; leave it out to train on the CPU")
    alone = launcher_size() is None  # what is launched may see no more than its own
    if gpus_per_node not in ("auto", 0) and visible < (int(gpus_per_node) if alone else 1):
        raise UserError(
            f"gpus_per_node={gpus_per_node}: {visible or 'no'} GPU is visible here; leave it out to train on "
            f"{'it' if visible else 'the CPU'}"
        )
    if alone and not visible and gpus_per_node == "auto" and devices not in ("auto", 1):
        raise UserError(
            f"trainer.devices={devices}: no GPU is visible here; with gpus_per_node=0 they are processes on the CPU"
        )


def check(nodes: int, gpus_per_node: int | str, visible: int = 0) -> None:
    """UserError unless the processes that were launched are those that `nodes` and `gpus_per_node` speak of.

    visible: GPUs that this one sees.
    """
    found = launcher_size()
    if found is None:
        if nodes > 1 and "NODE_RANK" not in os.environ:
            raise UserError(
                f"nodes={nodes}: this process was not started on several nodes; say launch=slurm, or see launch/"
            )
        return
    if 0 < visible < found[1] and gpus_per_node != 0:
        raise UserError(
            f"the launcher started {found[1]} processes on this node and {visible} GPU is visible to each: let all see "
            f"all (--gpus-per-node in place of --gpus-per-task, or --gpu-bind=none)"
        )
    if nodes not in (1, found[0]):
        raise UserError(f"nodes={nodes}: the launcher started processes on {found[0]}; leave nodes out, or say that")
    if gpus_per_node not in ("auto", 0, found[1]):
        raise UserError(
            f"gpus_per_node={gpus_per_node}: the launcher started {found[1]} processes a node, one is needed for each "
            f"GPU; leave gpus_per_node out, or start as many"
        )
