"""The mean of a run's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.runs import checkpoint, checkpoint_files


def average(
    network: nn.Module,
    inputs: Sequence[tuple[Tensor, Condition]],
    run: str,
    checkpoints: Sequence[str] | None = None,
) -> nn.Module:
    """The network with the mean of its weights in several checkpoints: w = (w_1 + ... + w_k) / k.

    Of one run (SWA, Izmailov et al. 2018), or of runs that began alike (soups, Wortsman et al. 2022). A checkpoint's
    running averages (EMA) are taken where it has them. run: run folder or a checkpoint in
    it. checkpoints: run folders or checkpoints; null for all that the run has kept. Size and speed stay.
    Bound: no weight leaves the range of its k values. UserError where there are fewer than two, or where one does not
    have the weights of this network: what other passes changed cannot be averaged any more.
    """
    paths = [checkpoint.newest(path) for path in checkpoints] if checkpoints else checkpoints_of(Path(run).expanduser())
    if len(paths) < 2:
        raise UserError(
            f"average: {run} has kept {len(paths)} checkpoints, expected two or more: "
            "train with callbacks.checkpoint.keep=5, or name some by passes.average.checkpoints=[A,B]"
        )
    network = deepcopy(network)
    ours = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    totals = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in ours.items()}
    for path in paths:
        content = checkpoint.read(path)
        found = part({**dict(content["state_dict"]), **dict(content["ema"])}, ours, path)
        for name, total in totals.items():
            total += found[name].to(total)
    with torch.no_grad():
        for name, tensor in ours.items():
            tensor.copy_(totals[name] / len(paths))
    return network


def checkpoints_of(path: Path) -> list[Path]:
    """All whole checkpoints of a run folder, or beside one, oldest first; best.ckpt is one of them once more."""
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path.parent
    return [each for each in checkpoint_files.in_order(folder) if checkpoint.is_whole(each)]


def part(state: Mapping[str, Tensor], ours: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a network in the state of an objective, under whatever name it has there."""
    first = next(iter(ours))
    prefixes = [name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")]
    for prefix in prefixes:
        found = {name: state.get(prefix + name) for name in ours}
        if all(value is not None and value.shape == ours[name].shape for name, value in found.items()):
            return {name: value for name, value in found.items() if value is not None}
    raise UserError(f"average: {path} does not have the weights of this network: average a run first, then compress it")
