"""Trains a tiny objective for some steps alone or as one of several ranks, and writes what tests compare."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
from conftest_objectives import make_gan, make_vae, random_batch

from trainer.losses.adversarial import Hinge, Relativistic
from trainer.strategies.ddp import DDP
from trainer.strategies.single import Single

STEPS, GLOBAL_BATCH = 20, 8
# eps: some gradients vanish by symmetry (a bias under hinge); Adam would blow their rounding noise up to full steps
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9), eps=1e-4)
OBJECTIVES = {
    "gan": partial(make_gan, Hinge(), ADAM, matching=1.0),
    "gan-r1-r2": partial(make_gan, Relativistic(), ADAM, matching=1.0, r1=0.1, r2=0.1, penalty_interval=2),
    "gan-accumulate-clip": partial(make_gan, Hinge(), ADAM, matching=1.0, r1=0.1, accumulate=2, clip=0.5),
    "vae": partial(make_vae, ADAM),
}


def count(state, bucket):
    watch, network = state
    assert network == watch.running, "a network's gradients moved in another's phase"
    watch.phase_bytes[network] += bucket.buffer().nbytes
    return allreduce_hook(torch.distributed.group.WORLD, bucket)


class Watch(pl.Callback):
    """What a rank saw: positions, first latents, and the bytes it reduced in each phase."""

    def __init__(self):
        self.seen = {"positions": [], "latents": [], "bytes": []}

    def on_train_start(self, trainer, objective):
        self.phase_bytes = dict.fromkeys(objective.phases, 0)
        for name, engine in getattr(trainer.strategy, "engines", {}).items():
            engine.register_comm_hook((self, name), count)
        for name, loss in objective.phases.items():
            objective.phases[name] = partial(self.enter, name, loss)

    def enter(self, name, loss, batch):
        self.running = name
        return loss(batch)

    def on_train_batch_start(self, trainer, objective, batch, index):
        self.seen["positions"].append(batch.position.clone())
        stream = next(iter(objective.phases))
        self.seen["latents"].append(objective.normal(stream, batch, objective.latent_channels))

    def on_train_batch_end(self, trainer, objective, *_):
        self.seen["bytes"].append(dict(self.phase_bytes))
        self.phase_bytes = dict.fromkeys(self.phase_bytes, 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("objective", choices=OBJECTIVES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    objective = OBJECTIVES[arguments.objective]()
    if os.environ.get("RANK", "0") != "0":  # other weights on the other rank: the engines must make them equal
        with torch.no_grad():
            for parameter in objective.parameters():
                parameter.add_(1.0)
    strategy = DDP() if arguments.ranks > 1 else Single("cpu")
    watch = Watch()
    trainer = pl.Trainer(
        strategy=strategy, accelerator="cpu", devices=arguments.ranks, max_epochs=1, callbacks=[watch],
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    size = GLOBAL_BATCH // arguments.ranks
    rank = trainer.global_rank
    batches = [random_batch(GLOBAL_BATCH, GLOBAL_BATCH * i)[rank * size : (rank + 1) * size] for i in range(STEPS)]
    trainer.fit(objective, DataLoader(batches, batch_size=None))
    result = {"weights": dict(objective.named_parameters()), "seen": watch.seen, "images_seen": objective.images_seen}
    torch.save(result, arguments.out / f"rank{trainer.global_rank}-of-{arguments.ranks}.pt")


if __name__ == "__main__":
    main()
