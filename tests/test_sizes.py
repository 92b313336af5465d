"""Every experiment at sizes that are no powers of two, and of rectangles: a step, a checkpoint and a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from trainer import load
from trainer.batch import Condition
from trainer.config.entry import Training, entry
from trainer.size import Size
from trainer.tasks.examples import examples

SIZES = [Size(48, 48), Size(48, 80)]
EXPERIMENTS = sorted(file.stem for file in (Path(__file__).parent.parent / "conf" / "experiment").glob("*.yaml"))
LEARNERS = {  # of an earlier run: its experiment, the key that names it
    "distill": ("cgan", "teacher"),
    "dalle": ("vqvae", "tokenizer"),
    "gat_latents": ("vqvae", "tokenizer"),
    "maskgit": ("fsq", "tokenizer"),
    "reward": ("cgan", "init"),
}
SAME = ["distill_data", "distill_text", "reward_tokens"]  # networks of those above
TOKENIZERS = ["fsq", "fsq_shapes", "vqgan", "vqvae"]
DRAWS_NOTHING = [*TOKENIZERS, "captioning", "captioning_vae", "matching", "matching_emoji"]
OWN = {  # what an experiment has to be told where the shorter side has 48 pixels: the halves of that are 24, 12, 6
    **{name: ["objective.autoencoder.encoder.size=12"] for name in TOKENIZERS},
    "progressive": ["objective.start_size=12"],
    "captioning": ["callbacks.captions=null"],
    "captioning_vae": ["callbacks.captions=null"],
    **{name: ["objective.discriminator.num_downs=2"] for name in ("pix2pix", "deformable", "style_transfer")},
    "cyclegan": ["objective.discriminator.there.num_downs=2", "objective.discriminator.back.num_downs=2"],
    "pix2pixhd": ["objective.discriminator.num_scales=2"],
}
FROM_PICTURES = ["colorization", "denoising", "enhancement", "inpainting", "restoration", "super_resolution"]
FROM_PICTURES += ["cyclegan", "deformable", "pix2pix", "pix2pixhd", "style_transfer"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty pairs with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        for name in (f"{number}.png", f"{number}-source.png"):
            Image.fromarray(pixels).save(folder / name)
        names = {"file_name": f"{number}.png", "source": f"{number}-source.png"}
        lines.append(json.dumps({**names, "text": f"a red star {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def arguments(experiment, pictures, size, *more):
    parts = [f"data.source.path={pictures}", f"data.resolution={size.resolution}", "data.batch_size=4"]
    without = ["callbacks.samples=null", "callbacks.evaluation=null", "callbacks.throughput=null", "logger.wandb=null"]
    return [f"experiment={experiment}", "data=folder", *parts, *without, *OWN.get(experiment, []), *more]


@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - {*LEARNERS, *SAME}))
def test_networks_of_an_experiment_draw_rectangles(experiment, command, pictures):
    composed = []
    given = arguments(experiment, pictures, SIZES[1])
    result = command(*given, main=lambda: entry(composed.append, "config", Training))
    assert result.code == 0, result.err
    objective = instantiate(composed[0].objective, _convert_="all").eval()
    if not objective.draws_with:
        return
    sources = examples(objective.get_submodule(objective.draws_with), torch.arange(2))
    frozen, width = composed[0].text.network._target_ == "torch.nn.Identity", composed[0].text.width
    words = torch.randn(2, 4, width) if frozen else torch.ones(2, 4, dtype=torch.int64)  # else ids
    condition = Condition(words, torch.ones(2, 4, dtype=torch.bool), torch.randn(2, width), sources)
    with torch.no_grad():
        assert objective.sample(torch.randn(2, objective.latent_channels), condition).shape == (2, 3, 48, 80)


def train(command, out, *options):
    result = command(*options, "kimg=0.004", f"run_dir={out}")
    assert result.code == 0, result.err
    return out


@pytest.mark.sampled(10)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - {*LEARNERS, *SAME}))
def test_experiment_at(size, experiment, command, pictures, tmp_path):
    run = train(command, tmp_path / "run", *arguments(experiment, pictures, size))
    if experiment not in DRAWS_NOTHING:
        assert drawn(run, experiment, pictures, size).shape == (2, 3, *size)


def drawn(run, experiment, pictures, size):
    """Of a picture of 12 pixels, that is enlarged, or of one of the size, that is not cut into tiles."""
    given = {}
    if experiment in FROM_PICTURES:
        height, width = size.over(2 if experiment == "super_resolution" else 1)
        Image.open(pictures / "0.png").resize((width, height)).save(run / "photo.png")
        given["source"] = run / "photo.png"
    if experiment == "inpainting":
        Image.new("L", (size.width, size.height), "white").save(run / "mask.png")
        given["mask"] = run / "mask.png"
    return load(run)("a red star", seeds=range(2), **given).pixels


@pytest.mark.sampled(6)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("experiment", LEARNERS)
def test_experiment_of_an_earlier_run_at(size, experiment, command, pictures, tmp_path):
    first, key = LEARNERS[experiment]
    run = train(command, tmp_path / "first", *arguments(first, pictures, size))
    given = arguments(experiment, pictures, size)[4:]
    more = []
    if experiment == "reward":
        more.append(f"matcher={train(command, tmp_path / 'matcher', *arguments('matching', pictures, size))}")
    learned = train(command, tmp_path / "run", f"experiment={experiment}", f"{key}={run}", *given, *more)
    assert drawn(learned, experiment, pictures, size).shape == (2, 3, *size)
