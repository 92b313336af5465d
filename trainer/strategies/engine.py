"""DeepSpeed, loaded without what it does unasked, and the settings of one of its engines."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import torch

from trainer.errors import UserError
from trainer.process.distribution import install


def settings(
    stage: int, sizes: list[int], reduce_dtype: str, offload_optimizer: bool, offload_parameters: bool
) -> dict[str, Any]:
    """DeepSpeed's configuration for a network with weights of so many elements each; options as of `ZeRO`."""
    # DeepSpeed's own linear rounds otherwise than PyTorch's under bf16, so stage 3 would not equal the others
    zero: dict[str, Any] = {"stage": stage, "memory_efficient_linear": False, "overlap_comm": stage > 1}
    zero["reduce_bucket_size"] = bucket_size(sizes)
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "managed_gradient_accumulation": False,  # the objective says when to step
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": {"float32": "fp32", "bfloat16": "bf16"}[reduce_dtype],
        "zero_optimization": zero,
    }


def bucket_size(sizes: list[int]) -> int:
    """Elements of a network that are reduced together: a quarter of them, so that three quarters hide in the backward.

    At least the 26 MB that a link likes, or all there are; at most 200 MB, where the largest weight is no larger.
    sizes: of its weights. DeepSpeed's own default is 2 GB, whatever the network has.
    """
    total = sum(sizes)
    return max(1, min(total, max(6_500_000, min(total // 4, 50_000_000), max(sizes, default=1))))


def load_deepspeed() -> Any:
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it warns that it has to choose that
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed calls them
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"strategy=zero* needs DeepSpeed: {install('deepspeed')}") from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Nothing is compiled at start: on CPU it would build a reduction for inference, behind a lock file that a killed
    # run leaves in ~/.cache, and at which every later run waits for ever.
    deepspeed.ops.__compatible_ops__ = {}
    return deepspeed
