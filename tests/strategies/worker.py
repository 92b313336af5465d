"""Trains tiny objectives with one strategy, alone or as one of several ranks, and writes what tests compare.

worker.py STRATEGY[,OPTION=VALUE] FOLDER CASE...
a case is OBJECTIVE/PRECISION with /seed=1 /save=NAME /sharded=NAME /from=NAME
/posthoc=TIMES: snapshots of averages whose length is chosen later
/traffic=STEP: counts what is gathered in that step
/break=VALUE: factor of one gradient of the second rank in the tenth step
"""

import json
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "objectives"))
from conftest_objectives import (
    LATENT,
    RESOLUTION,
    TEXT,
    Reader,
    make_attngan,
    make_captioning,
    make_captioning_vae,
    make_cyclegan,
    make_dalle,
    make_gan,
    make_latent_gan,
    make_maskgit,
    make_matching,
    make_progressive,
    make_restoration,
    make_reward,
    make_reward_tokens,
    make_stylegan2,
    make_taught_gan,
    make_text_distillation,
    make_textgan,
    make_tokenizer,
    make_translation,
    make_vae,
    make_vae_gan,
    make_vqgan,
    paired_batch,
    random_batch,
)

from trainer.callbacks.checkpoint_io import AtomicCheckpointIO
from trainer.callbacks.ema import EMA
from trainer.callbacks.posthoc import PostHocEMA
from trainer.losses.adversarial import Hinge, NonSaturating, Relativistic
from trainer.networks import transformer
from trainer.networks.ada import Adaptive
from trainer.networks.hourglass import Chain, Hourglass
from trainer.networks.projected import Discriminator as Projected
from trainer.networks.quantizers import FSQ, VQ
from trainer.objectives.gsn import GSN
from trainer.objectives.multilevel import MultiLevelGAN
from trainer.runs import checkpoint
from trainer.size import Size
from trainer.strategies.ddp import DDP
from trainer.strategies.fsdp import FSDP
from trainer.strategies.single import Single
from trainer.strategies.traffic import Traffic
from trainer.strategies.zero import ZeRO
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.enhancement import Enhancement
from trainer.tasks.restoration import Restoration
from trainer.tasks.super_resolution import SuperResolution

STEPS, GLOBAL_BATCH = 20, 8
SIZES = [Size(16, 24), Size(24, 16), Size(16, 16)]


class Mean(torch.nn.Module):
    """A running mean of what it is called with, as a batch norm or a codebook keeps one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean.lerp_(x.mean(), 0.1)


def spare(make, images=8, **options):
    """With a part of each network that no loss ever uses, one that the first images do, in every fourth step, and a
    running statistic."""
    objective = make(**options)
    for name, loss in list(objective.phases.items()):
        network = objective.network(name)
        network.never, network.seldom, network.statistic = torch.nn.Linear(3, 5), torch.nn.Linear(1, 1), Mean()

        def phase(batch, loss=loss, network=network):
            value, logs = loss(batch)
            network.statistic(batch.image)
            chosen = (batch.position % 8 < images) & (batch.position // 8 % 4 == 3)
            if chosen.any():
                value = value + (network.seldom(torch.ones(len(batch), 1))[:, 0] * chosen).mean()
            return value, logs

        objective.phases[name] = phase
    return objective


def sized(make, **options):
    """On batches of several sizes, as data.buckets makes them."""
    objective = make(**options)
    objective.require_sizes(SIZES)
    return objective


class Backbone(torch.nn.Module):
    """Frozen features at four scales, as a pretrained network's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.linspace(-1, 1, 5 * 3 * 9).view(5, 3, 3, 3).sin())

    def see(self, images):
        maps = torch.nn.functional.conv2d(images, self.weight, padding=1)
        return [torch.nn.functional.avg_pool2d(maps, 1 << level) for level in range(4)]


def make_projected(*arguments, **options):
    """A GAN whose discriminator sees frozen features, with penalties on these."""
    gan = make_gan(*arguments, **options)
    gan.discriminator = Projected(
        RESOLUTION, TEXT, torch.nn.Identity(), Backbone, mixed_channels=4, head_channels=8, pixels=4
    )
    return gan


def make_gsn(optimizer, **options):
    """A walk of two steps."""
    loop = {"optimizer": {"generator": optimizer}, "schedule": make_gan().schedule}
    network = Hourglass(RESOLUTION, TEXT, torch.nn.Identity(), base_channels=4, max_channels=8, style_channels=8)
    return GSN(Chain(network, RESOLUTION, steps=2, sigma=0.5), **loop, **options)


def make_multilevel(optimizer, **options):
    """Transformers, judged at two levels."""
    gan = make_gan(Relativistic(), optimizer)
    sizes = {"resolution": RESOLUTION, "text_channels": TEXT, "width": 8, "depth": 2, "num_heads": 2, "levels": 2}
    generator = transformer.Generator(latent_channels=LATENT, text=torch.nn.Identity(), **sizes)
    discriminator = transformer.Discriminator(text=torch.nn.Identity(), **sizes)
    loop = {"optimizer": gan.make_optimizer, "schedule": gan.schedule}
    return MultiLevelGAN(generator, discriminator, Relativistic(), **loop, **options)


def make_regularized(*arguments, **options):
    """With all that has a state of its own beside the networks."""
    return make_gan(*arguments, augment=Adaptive(target=0.0, kimg=0.5), **options)


class Offloaded(FSDP):
    """By the policy of a GPU, whose main memory is this one; what is pinned is a GPU's."""

    def __init__(self, offload_parameters, **options):  # which are refused without a GPU
        super().__init__(unit_parameters=500, **options)

    def shard(self, network):
        self.offload_parameters, self.rests = True, CPUOffloadPolicy(pin_memory=False)
        super().shard(network)


# eps: some gradients vanish by symmetry (a bias under hinge); Adam would blow their rounding noise up to full steps
ADAM = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.9), eps=1e-4)
SGD = partial(torch.optim.SGD, lr=0.1)
SMALL = partial(torch.optim.SGD, lr=0.01)
SPLIT = {"accumulate": 2, "clip": 0.5}
VQGAN = {"discriminator_start_kimg": 0.02, "discriminator_ramp_kimg": 0.05, "perceptual_weight": 0.1}
TODAY = {"matching": 2.0, "feature_matching": 3.0, "reuse_fakes": True, "r1": 0.2, "penalty_interval": 2}
RPGAN = {"text": Reader, "matching": 1.0, "r1": 0.1, "r2": 0.1, "penalty_interval": 2}
OBJECTIVES = {
    "hinge": partial(make_gan, Hinge(), ADAM, matching=1.0),
    "hinge+split": partial(make_gan, Hinge(), ADAM, matching=1.0, **SPLIT),
    "rpgan": partial(make_gan, Relativistic(), ADAM, **RPGAN),
    "rpgan+split": partial(make_gan, Relativistic(), ADAM, **RPGAN, **SPLIT),
    "patches": partial(make_gan, NonSaturating(), ADAM, text=Reader, patches=1, **TODAY),  # as experiment dcgan
    "reuse": partial(make_gan, Hinge(), ADAM, text=Reader, matching=1.0, reuse_fakes=True, **SPLIT),
    "cvae": partial(make_vae, ADAM),
    # for bounds below 1e-5: the last bias of D has a gradient, which in the others cancels but for rounding
    "minimax": partial(make_gan, NonSaturating(), ADAM, text=Reader, matching=1.0, r1=0.1, penalty_interval=2),
    "cvae+split": partial(make_vae, ADAM, **SPLIT),
    "matching": partial(make_matching, ADAM, clip=0.5),
    "projected": partial(make_projected, Hinge(), ADAM, matching=1.0, r1=0.1, penalty_interval=2),
    "regularized": partial(make_regularized, Hinge(), ADAM, lecam=0.1, consistency=1.0, feature_matching=0.5),
    "multilevel": partial(make_multilevel, ADAM, r1=0.1, r2=0.1, matching=1.0),
    "multilevel+split": partial(make_multilevel, ADAM, r1=0.1, r2=0.1, finite_difference=0.1, **SPLIT),
    # by SGD, as attngan: by Adam one process with weights of 1 + 1e-7 times the size ends 1e-2 elsewhere
    "latents": partial(make_latent_gan, optimizer=SGD, matching=1.0, r1=0.1, r2=0.1, finite_difference=0.1, **SPLIT),
    "gsn": partial(make_gsn, ADAM, **SPLIT),
    "taught": partial(make_taught_gan, Hinge(), ADAM),
    "fsq": lambda **options: make_tokenizer(FSQ([5, 4, 3]), ADAM, **SPLIT, **options),
    "vae_gan": partial(make_vae_gan, ADAM, matching=1.0, r1=0.1, penalty_interval=2, like_weight=0.5),
    "vae_gan+split": partial(make_vae_gan, ADAM, matching=1.0, **SPLIT),
    "vqgan": lambda **options: make_vqgan(None, ADAM, **VQGAN, **SPLIT, **options),
    "dalle": partial(make_dalle, optimizer=ADAM, **SPLIT),
    "worded": partial(make_text_distillation, ADAM, pixel=0.5, **SPLIT),
    "maskgit": partial(make_maskgit, optimizer=ADAM, **SPLIT),
    # by Adam vectors cross the borders of codes, from rounding alone, at more seeds than they do not
    "vq": lambda **options: make_tokenizer(VQ(16, 4, halflife_kimg=0.05), SMALL, **SPLIT, **options),
    # by Adam it is chaotic: one process with weights of 1 + 1e-7 times the size ends 1e-2 elsewhere
    "attngan": partial(make_attngan, SGD, text=Reader, matching=1.0, r1=0.1, penalty_interval=2, **SPLIT),
    "stages": partial(make_attngan, SGD, text=Reader, **TODAY),  # as experiment cgan
    "captioning": partial(make_captioning, ADAM),
    "textgan": partial(make_textgan, ADAM, matching=1.0, generated_pairs=0.5, reuse_fakes=True, **SPLIT),
    "captioning_vae": partial(make_captioning_vae, ADAM, free_nats=0.01, **SPLIT),
    # small steps: else a rounding of 1e-7 grows tenfold in three of them here, in one process as well, halves added up
    "inpainting": partial(make_restoration, SMALL, matching=1.0),
    "inpainting+split": partial(make_restoration, SMALL, matching=1.0, r1=0.1, penalty_interval=2, **SPLIT),
    "denoising": partial(make_restoration, ADAM, task=Denoising(), adversarial=0.0),
    "super_resolution": partial(make_restoration, SMALL, task=SuperResolution()),
    "colorization": partial(make_restoration, SMALL, task=Colorization()),
    "restoration": partial(make_restoration, SMALL, task=Restoration()),
    "enhancement": partial(make_restoration, SMALL, task=Enhancement()),
    "source_dropout": partial(make_restoration, SMALL, task=Denoising(source_dropout=0.5), matching=1.0, **SPLIT),
    "pix2pix": partial(make_translation, SMALL, matching=1.0, feature_matching=1.0),
    "pix2pix+split": partial(make_translation, SMALL, r1=0.1, penalty_interval=2, reuse_fakes=True, **SPLIT),
    "cyclegan": partial(make_cyclegan, SMALL),
    "cyclegan+split": partial(make_cyclegan, SMALL, r1=0.1, **SPLIT),  # which divides by the square of a small step
    "reward": partial(make_reward, SMALL, **SPLIT),
    "reward_tokens": partial(make_reward_tokens, SGD, draws=3, **SPLIT),
    "reward_maskgit": lambda **more: make_reward_tokens(SGD, make_maskgit().generator, draws=3, **SPLIT, **more),
    # by Adam one process on other kernels ends 4e-4 elsewhere
    "progressive": partial(make_progressive, SGD, text=Reader, matching=1.0, r1=0.1, penalty_interval=2, **SPLIT),
    "stylegan2": partial(make_stylegan2, ADAM, text=Reader, r1=0.1, penalty_interval=2, path_length_interval=2),
    "stylegan2+split": partial(
        make_stylegan2, ADAM, text=Reader, group=2, matching=1.0, path_length_interval=2, **SPLIT
    ),
}
OBJECTIVES["spare"] = partial(spare, OBJECTIVES["minimax"])
OBJECTIVES["sizes"] = partial(sized, partial(OBJECTIVES["minimax"], **SPLIT))
OBJECTIVES["sizes_fsq"] = partial(sized, OBJECTIVES["fsq"])
OBJECTIVES["sizes_matching"] = partial(sized, OBJECTIVES["matching"])
OBJECTIVES["uneven"] = partial(spare, OBJECTIVES["minimax"], images=4)  # of two ranks the first alone has them
STRATEGIES = {
    "single": partial(Single, "cpu"),
    "ddp": DDP,
    "fsdp": partial(FSDP, unit_parameters=500),
    **{f"zero{stage}": partial(ZeRO, stage=stage) for stage in (1, 2, 3)},
}


def strategy_of(name):
    """`fsdp,replicas=2`: a strategy with options in JSON."""
    kind, *options = name.split(",")
    values = {key: json.loads(value) for key, value in (option.split("=") for option in options)}
    return (Offloaded if "offload_parameters" in values else STRATEGIES[kind])(**values)


def count(state, bucket):
    watch, network = state
    assert network == watch.running, "a network's gradients moved in another's phase"
    watch.phase_bytes[network] += bucket.buffer().nbytes
    return allreduce_hook(torch.distributed.group.WORLD, bucket)


class Watch(pl.Callback):
    """What a rank saw: positions, latents, what torch itself draws, memory, bytes that DDP reduced in each phase."""

    def __init__(self, options):
        self.options = options
        self.seen = {"positions": [], "latents": [], "bytes": [], "memory": {}, "rounded": [], "own": torch.empty(0)}

    def on_train_start(self, trainer, objective):
        self.phase_bytes, self.objective = dict.fromkeys(objective.phases, 0), objective
        self.broken = float(self.options.get("break", 0))
        self.seen["own"] = torch.randn(4)
        if isinstance(trainer.strategy, DDP) and trainer.strategy.reduce_dtype == "float32":  # else it has a hook
            for name, engine in trainer.strategy.engines.items():
                engine.register_comm_hook((self, name), count)
        for name, loss in objective.phases.items():
            objective.phases[name] = partial(self.enter, name, loss)
        trainer.strategy.full_params = partial(self.whole, trainer.strategy.full_params)
        step = trainer.strategy.optimizer_step

        def measured(optimizer, **arguments):
            self.seen["memory"][self.running] = trainer.strategy.memory(optimizer)
            return step(optimizer, **arguments)

        trainer.strategy.optimizer_step = measured

    @contextmanager
    def whole(self, full_params, network):
        """Notes for each network that is whole whether its weights are those of bf16 alone."""
        with full_params(network):
            weights = torch.cat([p.detach().flatten() for p in network.parameters()])
            self.seen["rounded"].append(torch.equal(weights, weights.bfloat16().float()))
            yield

    def enter(self, name, loss, batch):
        """The loss, which runs as a phase of `name`."""
        self.running = name
        value, logs = loss(batch)
        objective = self.objective
        late = objective.trainer.global_step == STEPS // 2 - 1 and name == [*objective.phases][-1]
        if self.broken and late and objective.global_rank == 1:
            value = value * self.broken
        return value, logs

    def on_train_batch_start(self, trainer, objective, batch, index):
        self.traffic = Traffic().__enter__() if index == int(self.options.get("traffic", -1)) else None
        self.seen["positions"].append(batch.position.clone())
        stream = next(iter(objective.phases))
        self.seen["latents"].append(objective.normal(stream, batch, objective.latent_channels))

    def on_train_batch_end(self, trainer, objective, *_):
        if self.traffic:
            self.traffic.__exit__(None, None, None)
            self.seen["gathered"] = self.traffic.bytes["all_gather"]
        self.seen["bytes"].append(dict(self.phase_bytes))
        self.phase_bytes = dict.fromkeys(self.phase_bytes, 0)


class Save(pl.Callback):
    """Checkpoints halfway, with the images that the EMA weights draw then; or draws them after loading."""

    def __init__(self, path, sharded):
        self.path, self.sharded = path, sharded

    def draw(self, objective):
        batch = random_batch(4)
        latent = torch.linspace(-1, 1, 4 * objective.latent_channels).view(4, -1)
        with torch.no_grad(), objective.ema_weights():
            self.images = objective.sample(latent, batch.condition) if objective.global_rank == 0 else None

    def on_train_start(self, trainer, objective):
        if trainer.global_step == STEPS // 2:
            self.draw(objective)

    def on_train_batch_end(self, trainer, objective, *_):
        if self.path and trainer.global_step == STEPS // 2:
            self.draw(objective)
            trainer.strategy.sharded_checkpoints = self.sharded
            trainer.save_checkpoint(self.path)
            trainer.strategy.sharded_checkpoints = False


def train(strategy, case, folder):
    name, precision, *options = case.split("/")
    options = dict(option.split("=", 1) for option in options)
    seed = int(options.get("seed", 0))
    offset = 10_000 * seed
    watch = Watch(options)
    saved = options.get("save") or options.get("sharded")
    save = Save(folder / saved if saved else None, "sharded" in options)
    callbacks = [EMA(halflife_kimg=0.05, rampup_ratio=1.0), PostHocEMA(int(options.get("posthoc", 0))), watch, save]
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    trainer = pl.Trainer(
        strategy=strategy_of(strategy), accelerator="cpu", devices=ranks, max_epochs=1, max_steps=STEPS,
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": None}[precision],
        plugins=MixedPrecision("16-mixed", "cpu") if precision == "fp16" else None,  # which a Trainer takes for bf16
        callbacks=callbacks, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    objective = OBJECTIVES[name](seed=seed)
    if os.environ.get("RANK", "0") != "0":  # other weights on the other rank: the engines must make them equal
        with torch.no_grad():
            for parameter in filter(lambda each: each.requires_grad, objective.parameters()):
                parameter.add_(1.0)
        if trainer.strategy.splits_weights:  # which builds it so from a configuration
            for module in (each for name in objective.phases for each in objective.network(name).modules()):
                for key, parameter in module._parameters.items():
                    if parameter is not None:
                        module._parameters[key] = torch.nn.Parameter(parameter.data.to("meta"), parameter.requires_grad)
    trainer.strategy.checkpoint_io = AtomicCheckpointIO()
    size, rank = GLOBAL_BATCH // ranks, trainer.global_rank
    resumed = folder / options["from"] if "from" in options else None
    steps = range(checkpoint.read(resumed)["global_step"] if resumed else 0, STEPS)
    drawn = paired_batch if name.startswith(("pix2pix", "cyclegan")) else random_batch
    sizes = SIZES if name.startswith("sizes") else [32 if name in ("attngan", "stages") else RESOLUTION]
    batches = [drawn(GLOBAL_BATCH, offset + GLOBAL_BATCH * i, sizes[i % len(sizes)]) for i in steps]
    batches = [batch[rank * size : (rank + 1) * size] for batch in batches]
    trainer.fit(objective, DataLoader(batches, batch_size=None), ckpt_path=resumed)
    final = trainer._checkpoint_connector.dump_checkpoint()  # whole, on rank 0
    result = {
        "weights": final["state_dict"],
        "ema": final["ema"] | dict(final.get("posthoc", {})),
        "held": {key: objective.held(p).clone() for key, p in objective.named_parameters()},
        "optimizer": final["optimizer_states"],
        "images": getattr(save, "images", None),
        "seen": watch.seen,
        "ages": [hold.age.item() for hold in trainer.strategy.holds],
        "scales": [getattr(hold, "factor", torch.ones(())).item() for hold in trainer.strategy.holds],
        "images_seen": objective.images_seen,
    }
    torch.save(result, folder / f"{case.replace('/', '_').replace('=', '-')}.{rank}-of-{ranks}.pt")
    print(f"{strategy} {case} done", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[3:]:
        train(sys.argv[1], each, Path(sys.argv[2]))
