"""What people of other programs call the keys of a configuration."""

from __future__ import annotations

import re
from collections.abc import Collection

# words -> names of ours with a remark; the first that a configuration has is meant
_NAMES = {
    "gpus ngpus num_gpus n_gpus devices num_devices gpu_ids": ("gpus_per_node", "trainer.devices"),
    "device accelerator": ("device", "gpus_per_node (0 trains on the CPU)"),
    "epochs num_epochs n_epochs max_epochs steps num_steps max_steps iterations iters niter": (
        "kimg (the budget in thousand images)",
    ),
    "precision dtype": ("trainer.precision",),
    "amp bf16 half mixed_precision": ("trainer.precision=bf16-mixed",),
    "fp16 use_fp16": ("trainer.precision=16-mixed, on cards without bf16",),
    "path root dir folder data_path data_dir data_root dataroot dataset_path": (
        "data.source.path",
        "checkpoint",
        "data=folder data.source.path=...",
    ),
    "dataset dataset_name": ("data",),
    "n num num_images num_samples n_samples samples count images": (
        "seeds (0-3 are four images of each prompt)",
        "callbacks.samples.num_images",
    ),
    "batch bs batchsize batch_size": ("batch_size", "batch_sizes", "data.batch_size"),
    "resolution size image_size img_size imsize res": ("data.resolution",),
    "workers num_workers n_workers": ("data.num_workers", "processes"),
    "lr learning_rate": tuple(f"objective.optimizer.{net}.lr" for net in ("generator", "autoencoder", "matcher")),
    "output output_dir outdir out_dir save_dir logdir log_dir results": ("out", "run_dir"),
    "out": ("run_dir",),
    "config cfg exp recipe": ("experiment",),
    "model ckpt run run_dir weights load resume_from": ("checkpoint",),
    "text caption captions": ("prompts",),
    "file prompt_file": ("prompts_file",),
    "negative_prompt neg_prompt negative_caption uncond": ("negative",),
    "guidance_scale cfg_scale cfg w_cfg": ("guidance",),
    "image_guidance_scale image_guidance": ("source_guidance",),
    "interp interpolation lerp slerp morph": ("interpolate",),
    "composition combine mix blend": ("compose",),
    "use_wandb no_wandb": ("logger.wandb=null",),
    "gradient_clip_val clip_grad grad_clip max_grad_norm": ("objective.clip",),
    "accumulate_grad_batches gradient_accumulation_steps grad_accum": ("objective.accumulate",),
}
# the same of a training, where its configuration has none of these
_TRAINING = {
    "lr learning_rate": "objective.optimizer.generator.lr, with experiment=cgan",
    "optimizer optim": "objective.optimizer, which has an entry for each network",
    "model arch architecture net network": "objective, or experiment=NAME, a whole recipe",
    "checkpoint ckpt run weights load resume_from pretrained": "resume=RUN to go on, or init=RUN for its weights alone",
}
MEANT = {word: names for words, names in _NAMES.items() for word in words.split()}
IN_TRAINING = {word: name for words, name in _TRAINING.items() for word in words.split()}


def suggestion(word: str, known: Collection[str]) -> str:
    """The name among `known`, with a remark, that the last part of a dotted word stands for; '' if there is none."""
    last = word.rpartition(".")[2]
    found = next((name for name in MEANT.get(last, ()) if re.split("[ =]", name)[0] in known), "")
    return found or (IN_TRAINING.get(last, "") if "kimg" in known else "")
