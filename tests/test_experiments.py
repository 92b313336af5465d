"""Every experiment composes, trains two batches, saves and samples; so do the parts it can be changed to."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from trainer import load
from trainer.sample import main as sample

EXPERIMENTS = sorted(file.stem for file in (Path(__file__).parent.parent / "conf" / "experiment").glob("*.yaml"))
SMALL = {"shapes": ["data.source.num_images=100"], "emoji": []}
RESIDUAL_GAN = ["generator@objective.generator=residual", "discriminator@objective.discriminator=residual"]
RESIDUAL_VAE = [
    "encoder@objective.autoencoder.encoder=residual",
    "generator@objective.autoencoder.decoder=residual",
]
RELATIVISTIC = ["objective.loss._target_=trainer.losses.adversarial.Relativistic", "objective.r2=0.2"]
VARIANTS = {
    "residual family": ["experiment=cgan_shapes", *RESIDUAL_GAN],
    "residual vae": ["experiment=cvae", *RESIDUAL_VAE],
    "text trained from scratch": ["experiment=cgan_shapes", "text=scratch"],
    "relativistic, lazy off": ["experiment=cgan_shapes", *RELATIVISTIC, "objective.penalty_interval=1"],
    "finite difference": ["experiment=cgan_shapes", "objective.finite_difference=0.01", "objective.penalty_interval=1"],
    "bf16": ["experiment=cgan_shapes", "trainer.precision=bf16-mixed"],
    "clip and accumulate": ["experiment=cvae", "objective.clip=0.5", "objective.accumulate=2"],
    "augmented": ["experiment=cvae", "data.augment.crop=2", "data.augment.colour=0.2", "data.augment.noise=0.01"],
    "warm-up and cosine": ["experiment=cvae", "objective.schedule._target_=trainer.schedules.cosine",
                           "~objective.schedule.start", "+objective.schedule.warmup_kimg=0.016"],
    "scale of a gan": ["experiment=cgan_shapes", "scale=gpu", "objective.generator.base_channels=8",
                       "objective.discriminator.base_channels=8"],
    "scale of a vae": ["experiment=cvae", "scale=gpu_vae", "objective.autoencoder.encoder.base_channels=8",
                       "objective.autoencoder.decoder.base_channels=8"],
    "16 pixels": ["experiment=cgan_shapes", "data.resolution=16"],
}  # fmt: skip


def train(command, tmp_path, arguments, data="shapes"):
    short = ["kimg=0.016", "data.batch_size=8", "callbacks.samples.num_images=4"]
    short += ["callbacks.frechet.num_images=16"]
    run = tmp_path / "run"
    result = command(*arguments, *short, *SMALL[data], f"run_dir={run}")
    assert result.code == 0, result.err
    checkpoint = torch.load(next((run / "checkpoints").glob("*.ckpt")), weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["images_seen"] == 16
    assert checkpoint["ema"]
    return run


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment(experiment, command, tmp_path):
    text = (Path(__file__).parent.parent / "conf" / "experiment" / f"{experiment}.yaml").read_text()
    for word in ("paper", "expected", "cost", "command"):
        assert f"# {word} " in text, f"the header of {experiment} says nothing of its {word}"
    data = "emoji" if "override /data: emoji" in text else "shapes"
    run = train(command, tmp_path, [f"experiment={experiment}"], data)
    assert (run / "samples" / "latest.png").exists()
    assert (run / "metrics.csv").read_text().count("\n") >= 2
    assert f"checkpoint={run}" in (run / "README.md").read_text()
    result = command(f"checkpoint={run}", "prompts=[a red apple]", "seeds=0-2", f"out={tmp_path}", main=sample)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "a-red-apple_seed0002.png") as image:
        assert image.size == (32, 32)
        assert image.info["prompt"] == "a red apple"
    assert len(load(run)("a red apple", seeds=range(3)).images) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(variant, command, tmp_path):
    run = train(command, tmp_path, VARIANTS[variant])
    pixels = load(run)(["a small red circle", "a large blue star"], seeds=[1, 2]).pixels
    assert pixels.shape[:2] == (4, 3)
    assert len({tuple(image.flatten().tolist()) for image in pixels}) == 4
