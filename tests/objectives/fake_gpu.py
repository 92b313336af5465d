"""A device without values in place of a GPU: what would make the host wait for it is an error, or is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.strategies.single import Single

FAKE = torch.device("meta")
MADE = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)  # on the host; with a device, they copy


class Copies(TorchDispatchMode):
    """Lists what crosses between the host and the device; a single number that an operation takes along does not.

    To read a value (`item`, `tolist`, `if tensor`, a mask as an index) has no meaning on the device, and raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        try:
            made = operator(*args, **(kwargs or {}))
        except Exception as error:
            raise AssertionError(f"{operator} waits for the device, or has no meaning on it: {error}") from error
        got = [each for each in tree_leaves(made) if isinstance(each, Tensor)]
        moved = "copy" in operator._opname or "index" in operator._opname
        places = {each.device.type for each in (*given, *got) if each.dim() or moved}
        asked = "linalg" in operator._opname and operator._opname != "linalg_vector_norm"  # by the host, for success
        if len(places) > 1 or asked:
            self.found.append(str(operator))
        return made


class Made(TorchFunctionMode):
    """Lists tensors that are made of numbers of the host, on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function in MADE and made.device == FAKE and not isinstance(args[function is Tensor.new_tensor], Tensor):
            self.found.append(function.__name__)
        if function in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device == FAKE:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(each, (list, np.ndarray)) for each in index):
                self.found.append("a list as an index")
        return made


class Done(BaseException):
    """The step is done; there are no values to bring back."""


class Watch(pl.Callback):
    """Watches one step, and ends the training after it."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.copies, self.made = Copies(), Made()

    def on_train_start(self, trainer: Any, objective: Any) -> None:
        for held in vars(objective).values():  # what is no part of the model is read onto the device
            if isinstance(module := getattr(held, "objective", None), torch.nn.Module):
                module.to(FAKE)
        for module in objective.modules():
            if hasattr(module, "_written"):  # waits once: which pieces are known is a matter of values
                module._written = torch.arange(len(module.known), device=FAKE)
                module._numbers = module.known.cumsum(0)

    def on_train_batch_start(self, trainer: Any, objective: Any, batch: Any, index: int) -> None:
        assert batch.position.device == FAKE
        if index == self.step:
            self.made.__enter__()
            self.copies.__enter__()

    def on_train_batch_end(self, trainer: Any, objective: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == self.step:
            self.copies.__exit__(None, None, None)
            self.made.__exit__(None, None, None)
            raise Done


class Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class Fake(Single):
    """Trains on the fake device."""

    def setup(self, trainer: Any) -> None:
        self.parallel_devices = [FAKE]
        super().setup(trainer)

    def teardown(self) -> None:
        pass


def waits(objective: Any, batches: Any, callbacks: Any = (), step: int = 2, half: bool = False) -> list[str]:
    """What a step of a training would wait for, counted from 0; half: in fp16."""
    watch = Watch(step)
    trainer = pl.Trainer(
        accelerator=Accelerator(), strategy=Fake(), devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[*callbacks, watch], plugins=MixedPrecision("16-mixed", "cpu") if half else None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # autocast knows no such device, which has no fused kernels either
        patch.setattr("trainer.strategies.base.check_leaves_out", lambda _: None)
        cast, asks = torch.autocast, torch.is_autocast_enabled
        patch.setattr(torch, "autocast", lambda device, *rest, **more: cast("cpu", *rest, **more))
        patch.setattr(torch, "is_autocast_enabled", lambda *_: asks("cpu"))
        try:
            trainer.fit(objective, batches)
        except Done:
            return watch.copies.found + watch.made.found
    raise AssertionError("the training ended before its steps were watched")
