"""Trains two steps as one rank of several, or alone, and writes the distance that this rank has got."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
from conftest_objectives import RESOLUTION, make_gan, random_batch

from trainer.backbones import effnet_lite
from trainer.batch import Condition
from trainer.callbacks.evaluation import Evaluation
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single
from trainer.strategies.zero import ZeRO

STRATEGIES = {"ddp": DDP, "fsdp": FSDP, "zero3": partial(ZeRO, stage=3)}


class Data(pl.LightningDataModule):
    def __init__(self, cache_dir):
        super().__init__()
        self.cache_dir = cache_dir
        self.fingerprint = "random"
        images = np.random.default_rng(0).integers(0, 256, (7, RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        self.heldout = SimpleNamespace(images=images, captions=[str(number) for number in range(7)])

    def text(self, captions):
        rows = [random_batch(1, int(caption)).condition for caption in captions]
        return Condition.cat(rows)

    def train_dataloader(self):
        return DataLoader([random_batch(4, start) for start in (0, 4)], batch_size=None)


def main():
    out, ranks = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    strategy = STRATEGIES[sys.argv[3]]() if ranks > 1 else Single("cpu")
    trainer = pl.Trainer(
        strategy=strategy, accelerator="cpu", devices=ranks, max_epochs=1, max_steps=2, default_root_dir=out,
        callbacks=[Evaluation(effnet_lite.load(32), times=1, num_images=9)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(make_gan(optimizer=partial(torch.optim.SGD, lr=0.0)), Data(out / f"cache-{ranks}"))
    value = trainer.callback_metrics["val/fd_effnet"].item()
    (out / f"rank{trainer.global_rank}-of-{ranks}.json").write_text(json.dumps(value))
    if ranks > 1:  # else threads of a rank that ends first may end it by abort
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
