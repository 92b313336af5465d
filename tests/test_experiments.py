"""Every experiment composes, trains two batches, saves and samples; so do the parts it can be changed to."""

import csv
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_flatten

from trainer import load
from trainer.caption import main as caption
from trainer.compress import main as compress
from trainer.evaluate import main as evaluate
from trainer.export import main as export
from trainer.exports.drawing import Drawing
from trainer.runs import checkpoint
from trainer.runs.trained import Matcher
from trainer.sample import main as sample
from trainer.speed import main as speed

EXPERIMENTS = sorted(file.stem for file in (Path(__file__).parent.parent / "conf" / "experiment").glob("*.yaml"))
PAIRS = ["data.source.target=openmoji"]  # the other designs do not come by pip
SMALL = {"shapes": ["data.source.num_images=100"], "emoji": [], "emoji_pairs": PAIRS, "emoji_styles": PAIRS}
MATCHING = [name for name in EXPERIMENTS if name.startswith("matching")]  # these draw nothing
DISTILLED = ["distill", "distill_data", "distill_text"]  # of a teacher: tests/test_compress.py
REWARDED = ["reward", "reward_tokens"]  # of an earlier run
PRIORS = ["dalle", "maskgit", "gat_latents"]  # these draw the codes, or latents, of one of the next
TOKENIZERS = ["fsq", "fsq_shapes", "vqgan", "vqvae"]  # these neither, but they reconstruct
ONE_PICTURE = ["deep_image_prior"]  # is all that these draw
TASKS = ["colorization", "denoising", "enhancement", "inpainting", "restoration", "super_resolution"]
TRANSLATIONS = ["cyclegan", "deformable", "pix2pix", "pix2pixhd", "style_transfer"]
WRITERS = ["captioning", "captioning_vae"]  # write captions
OTHERS = [*MATCHING, *WRITERS, *DISTILLED, *REWARDED, *PRIORS, *TOKENIZERS, *ONE_PICTURE, *TASKS, *TRANSLATIONS]
DRAWN = ["callbacks.samples.num_images=4", "callbacks.evaluation.num_images=16"]
RETRIEVED = ["callbacks.retrieval.candidates=4", "callbacks.retrieval.max_images=20"]
RESIDUAL_GAN = ["generator@objective.generator=residual", "discriminator@objective.discriminator=residual"]
RESIDUAL_VAE = [
    "encoder@objective.autoencoder.encoder=residual",
    "generator@objective.autoencoder.decoder=residual",
]
RELATIVISTIC = ["objective.loss._target_=trainer.losses.adversarial.Relativistic", "objective.r2=0.2"]
CONSTANT = ["objective.schedule._target_=trainer.objectives.schedules.constant"]
CONSTANT += ["~objective.schedule.kimg", "~objective.schedule.final"]
NARROW = [f"objective.{each}.{key}" for each in ("generator", "discriminator") for key in ("patch=8", "width=48")]
TRANSFORMER_VAE = [
    *("encoder@objective.autoencoder.encoder=transformer", "objective.autoencoder.encoder.depth=1"),
    *("generator@objective.autoencoder.decoder=transformer", "objective.autoencoder.decoder.depth=1"),
    *(f"~objective.autoencoder.{part}.base_channels" for part in ("encoder", "decoder")),
    *(f"~objective.autoencoder.{part}.max_channels" for part in ("encoder", "decoder")),
]
VARIANTS = {
    "transformer vae": ["experiment=cvae", *TRANSFORMER_VAE],
    "residual family": ["experiment=cgan_shapes", *RESIDUAL_GAN],
    "residual vae": ["experiment=cvae", *RESIDUAL_VAE],
    "text trained from scratch": ["experiment=cgan_shapes", "text=scratch"],
    "relativistic, lazy off": ["experiment=cgan_shapes", *RELATIVISTIC, "objective.penalty_interval=1"],
    "finite difference": ["experiment=cgan_shapes", "objective.finite_difference=0.01", "objective.penalty_interval=1"],
    "bf16": ["experiment=cgan_shapes", "trainer.precision=bf16-mixed"],
    "clip and accumulate": ["experiment=cvae", "objective.clip=0.5", "objective.accumulate=2"],
    "augmented": ["experiment=cvae", "data.augment.crop=2", "data.augment.colour=0.2", "data.augment.noise=0.01"],
    "warm-up and cosine": ["experiment=cvae", "objective.schedule._target_=trainer.objectives.schedules.cosine",
                           "~objective.schedule.start", "+objective.schedule.warmup_kimg=0.016"],
    "scale of a gan": ["experiment=cgan_shapes", "scale=gpu", "objective.generator.base_channels=8",
                       "objective.discriminator.base_channels=8"],
    "scale of a vae": ["experiment=cvae", "scale=gpu_vae", "objective.autoencoder.encoder.base_channels=8",
                       "objective.autoencoder.decoder.base_channels=8"],
    "regularized": ["experiment=cgan_shapes", "augment@objective.augment=ada", "objective.lecam=0.01",
                    "objective.consistency=10", "objective.feature_matching=1"],
    "scale of stylegan2": ["experiment=stylegan2", "data=shapes", "scale=gpu_stylegan2", "data.resolution=16",
                           "objective.generator.base_channels=8", "objective.discriminator.base_channels=8"],
    "scale of projected": ["experiment=projected", "data=shapes", "scale=gpu_projected", "data.resolution=16",
                           "objective.generator.base_channels=8", "objective.discriminator.backbone.resolution=64"],
    "scale of r3gan": ["experiment=r3gan", "data=shapes", "scale=gpu_r3gan", "data.resolution=16",
                       "objective.generator.base_channels=8", "objective.discriminator.base_channels=8"],
    "scale of gat": ["experiment=gat", "data=shapes", "scale=gpu_gat", "data.resolution=32", *NARROW],
    "16 pixels": ["experiment=cgan_shapes", "data.resolution=16"],
}  # fmt: skip


def train(command, tmp_path, arguments, data="shapes", measured=DRAWN, place="run", steps=2):
    run = tmp_path / place
    result = command("kimg=0.016", *arguments, "data.batch_size=8", *measured, *SMALL[data], f"run_dir={run}")
    assert result.code == 0, result.err
    saved = torch.load(max((run / "checkpoints").glob("*.ckpt")), weights_only=True)
    assert saved["global_step"] == steps
    assert saved["images_seen"] == 8 * steps
    assert saved["ema"]
    return run


def data_of(experiment):
    text = (Path(__file__).parent.parent / "conf" / "experiment" / f"{experiment}.yaml").read_text()
    for word in ("paper", "expected", "cost", "command"):
        assert f"# {word} " in text, f"the header of {experiment} says nothing of its {word}"
    above = re.search(r"^  - ([a-z0-9_]+)$", text, re.M)  # another experiment that it changes
    if above and above[1] != "_self_":
        return data_of(above[1])
    named = re.search(r"override /data: (emoji\w*)$", text, re.M)
    return named[1] if named else "shapes"


@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - {*OTHERS}))
def test_experiment(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment))
    assert (run / "samples" / "latest.png").exists()
    assert (run / "metrics.csv").read_text().count("\n") >= 2
    assert f"checkpoint={run}" in (run / "README.md").read_text()
    result = command(f"checkpoint={run}", "prompts=[a red apple]", "seeds=0-2", f"out={tmp_path}", main=sample)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "a-red-apple_seed0002.png") as image:
        assert image.size == (64, 64) if experiment == "cgan_shapes64" else (32, 32)
        assert image.info["prompt"] == "a red apple"
    assert len(load(run)("a red apple", seeds=range(3)).images) == 3
    draws_alone_the_same(run)


def draws_alone_the_same(run, **given):
    """The network that draws, without the rest of its run, and that with all of it."""
    whole, alone = (load(run, draws_only=only) for only in (False, True))
    assert type(alone.objective) is Drawing
    assert type(whole.objective) is not Drawing
    assert torch.equal(*(each(["a red apple", "a cat"], range(2), **given).pixels for each in (whole, alone)))


def a_photo(folder, width=50, height=40):
    """A picture larger than those of training, and a mask of it."""
    pixels = torch.rand(5, 6, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    photo, mask = folder / "photo.png", folder / "mask.png"
    Image.fromarray(pixels).resize((width, height)).save(photo)
    white = Image.new("L", (width, height))
    white.paste(255, (10, 10, 30, 30))
    white.save(mask)
    return photo, mask


@pytest.mark.parametrize("experiment", [*TASKS, *TRANSLATIONS])
def test_image_task(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment))
    with Image.open(run / "samples" / "latest.png") as grid:
        assert grid.width > 4 * 128
    with open(run / "metrics.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    for key in ("val/fd_effnet", "val/psnr", "val/ssim"):
        assert len([row for row in rows if row[key]]) == 2
    holes = " mask=mask.png" if experiment == "inpainting" else ""
    for file in ("README.md", "report.html"):
        assert f"checkpoint={run} source=photo.png{holes} " in (run / file).read_text()
    photo, mask = a_photo(tmp_path)
    given = [f"source={photo}", *([f"mask={mask}"] if experiment == "inpainting" else [])]
    result = command(f"checkpoint={run}", *given, "prompts=[a red star]", "seeds=0-1", f"out={tmp_path}", main=sample)
    assert result.code == 0, result.err
    scale = 2 if experiment == "super_resolution" else 1
    with Image.open(tmp_path / "photo_a-red-star_seed0001.png") as image:
        assert image.size == (50 * scale, 40 * scale)
        assert (image.info["prompt"], image.info["source"]) == ("a red star", "photo.png")
    both = "source_guidance=2"
    plain = command(f"checkpoint={run}", *given, f"out={tmp_path}", main=sample)  # a source alone is enough
    assert plain.code == 0, plain.err
    assert (tmp_path / "photo_image_seed0000.png").exists()
    none = f"source={tmp_path / 'none'}"
    for arguments in (["prompts=[a red star]"], [none], *([given[0], each] for each in ("interpolate=[a, b]", both))):
        refused = command(f"checkpoint={run}", *arguments, f"out={tmp_path}", main=sample)
        assert refused.code == 2
        assert "source" in refused.err.splitlines()[-1]
        assert "Traceback" not in refused.err
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png", "b.webp"):
        with Image.open(photo) as image:
            image.save(folder / name, lossless=True)
    (folder / "torn.jpg").write_text("torn")
    whole = command(f"checkpoint={run}", f"source={folder}", *given[1:], f"out={tmp_path / 'all'}", main=sample)
    assert whole.code == 0, whole.err
    assert "torn.jpg: not a picture that can be read" in whole.err
    drawn = {file.name for file in (tmp_path / "all").iterdir()}
    assert len(drawn) == 4 and {"grid.png", "a_image_seed0000.png"} < drawn
    draws_alone_the_same(run, source=photo, mask=mask if experiment == "inpainting" else None)


DROPPED = ["objective.generator.task.source_dropout=0.5", "text.caption_dropout=0.3"]
METHODS = {
    "inpainting": ("biharmonic", "telea"), "super_resolution": ("bicubic", "lanczos"), "cyclegan": ("copied", "mean"),
}  # fmt: skip


@pytest.mark.parametrize("experiment", METHODS)
def test_an_image_task_is_measured_exported_and_drawn_in_bulk(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment))
    counts = ["num_images=12", "num_references=16", "device=cpu", "metrics=[fd,similarity]"]
    measured = command(f"checkpoint={run}", *counts, main=evaluate)
    assert measured.code == 0, measured.err
    assert re.search(r"^psnr +\d", measured.out, re.MULTILINE)
    assert re.search(r"^distance_\w+ +\d", measured.out, re.MULTILINE)
    for method in METHODS[experiment]:
        assert re.search(rf"^{method} +[\d.]+ +[\d.]+ +[\d.]+ ", measured.out, re.MULTILINE)
        assert f'"psnr_{method}"' in (run / "metrics.json").read_text()
    photo, mask = a_photo(tmp_path)
    given = {"source": photo} | ({"mask": mask} if experiment == "inpainting" else {})
    out = tmp_path / "export"
    formats = ["formats=[safetensors,onnx]", "include_text=true"]
    exported = command(f"checkpoint={run}", f"out={out}", *formats, main=export)
    assert exported.code == 0, exported.err
    assert "source" in (out / "README.md").read_text()
    drawn = [load(each)("a red star", seeds=range(2), **given).pixels.int() for each in (run, out, out / "model.onnx")]
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() <= 2
    (tmp_path / "photos").mkdir()
    for name in ("b.png", "a.png", "c.png"):
        shutil.copy(photo, tmp_path / "photos" / name)
    (tmp_path / "lines.txt").write_text("a red star\na blue circle\na green cross\n")
    bulk = [f"checkpoint={run}", f"prompts_file={tmp_path / 'lines.txt'}", "images_per_file=2", "processes=1"]
    bulk += [f"mask={mask}"] if experiment == "inpainting" else []
    for folder, source in ((tmp_path / "all", tmp_path / "photos"), (tmp_path / "one", photo)):
        done = command(*bulk, f"source={source}", f"out={folder}", main=sample)
        assert done.code == 0, done.err
        with tarfile.open(folder / "00001.tar") as tar, Image.open(tar.extractfile("000000002.png")) as image:
            expected = load(run)("a green cross", seeds=0, **given).images[0]
            assert image.size == expected.size and image.tobytes() == expected.tobytes()
    (tmp_path / "photos" / "c.png").unlink()
    refused = command(*bulk, f"source={tmp_path / 'photos'}", f"out={tmp_path / 'none'}", main=sample)
    assert refused.code == 2
    assert "has 2 pictures, prompts_file 3 lines" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["colorization", "inpainting"])
def test_source_and_caption_are_each_droppable(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}", *DROPPED])
    photo, mask = a_photo(tmp_path)
    given = {"source": photo} | ({"mask": mask} if experiment == "inpainting" else {})
    said = [f"{key}={path}" for key, path in given.items()]
    both = ["guidance=2", "source_guidance=1.5"]
    prompt = "prompts=[a red star]"
    for arguments, name in (
        ([prompt, "guidance=2"], "a-red-star_seed0000.png"),
        ([prompt, *said, *both], "photo_a-red-star_seed0000.png"),
        ([*said, "source_guidance=1.5"], "photo_image_seed0000.png"),
    ):
        drawn = command(f"checkpoint={run}", *arguments, f"out={tmp_path / 'drawn'}", main=sample)
        assert drawn.code == 0, drawn.err
        with Image.open(tmp_path / "drawn" / name) as image:
            assert image.info.get("source_guidance") == ("1.5" if said[0] in arguments else None)
        shutil.rmtree(tmp_path / "drawn")
    pipe = load(run)
    assert not torch.equal(pipe("a red star", **given).pixels, pipe("a red star", **given, source_guidance=3).pixels)
    whole = pipe("a red star", range(3)).pixels
    guided = pipe("a red star", **given, guidance=2, source_guidance=3).pixels
    assert whole.shape == (3, 3, 32, 32)
    for arguments, message in (
        ([prompt, *both], "source_guidance: of a source, and none is given"),
        (["seeds=0-1"], "prompts"),
    ):
        refused = command(f"checkpoint={run}", *arguments, f"out={tmp_path}", main=sample)
        assert (refused.code, message in refused.err.splitlines()[-1]) == (2, True), refused.err
    counts = ["num_images=12", "num_references=16", "device=cpu", "metrics=[fd]", "anchors=false"]
    for without in ("source", "caption"):
        measured = command(f"checkpoint={run}", *counts, f"without={without}", main=evaluate)
        assert measured.code == 0, measured.err
        figures = json.loads((run / "metrics.json").read_text())
        assert f'"without": "{without}"' in json.dumps(figures)
    refused = command(f"checkpoint={run}", *counts, "without=words", main=evaluate)
    assert (refused.code, "without=words: expected source or caption" in refused.err) == (2, True)

    out = tmp_path / "export"
    exported = command(f"checkpoint={run}", f"out={out}", "formats=[safetensors,onnx]", main=export)
    assert exported.code == 0, exported.err
    for name in ("model.safetensors", "model.onnx"):
        other = load(out / name)
        assert (other("a red star", range(3)).pixels.int() - whole.int()).abs().max() <= 1
        found = other("a red star", **given, guidance=2, source_guidance=3).pixels
        assert (found.int() - guided.int()).abs().max() <= 8, "what differs grows with the scale"
    done = subprocess.run([sys.executable, out / "infer.py", "a red star", "2", tmp_path / "one.png"], text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "one.png") as image:
        pixels = torch.tensor(list(image.tobytes())).view(32, 32, 3).permute(2, 0, 1)
    assert (pixels - whole[2].int()).abs().max() <= 1
    assert "or none: 0 and 1 there" in (out / "README.md").read_text()
    (tmp_path / "lines.txt").write_text("a red star\na blue circle\n")
    bulk = [f"checkpoint={run}", f"prompts_file={tmp_path / 'lines.txt'}", "images_per_file=2", "processes=1"]
    done = command(*bulk, "guidance=2", f"out={tmp_path / 'tars'}", main=sample)
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar, Image.open(tar.extractfile("000000000.png")) as image:
        assert image.tobytes() == pipe("a red star", guidance=2).images[0].tobytes()
    done = command(*bulk, *said, *both, f"out={tmp_path / 'more'}", main=sample)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_an_image_task_is_compressed_and_timed(command, tmp_path):
    run = train(command, tmp_path, ["experiment=inpainting"], "shapes")
    quick = ["batch_sizes=[1]", "max_rounds=3", "num_images=12", "num_references=16", "metrics=[fd]"]
    small = command(f"checkpoint={run}", "compression=[fold,half]", *quick, main=compress)
    assert small.code == 0, small.err
    assert "does not draw" not in small.err
    photo, mask = a_photo(tmp_path)
    one, two = (load(each)("a red star", source=photo, mask=mask).pixels.int()
                for each in (run, run / "compressed" / "fold-half"))  # fmt: skip
    assert (one - two).abs().max() <= 3
    timed = command(f"checkpoint={run}", "batch_sizes=[1]", "rounds=2", main=speed)
    assert timed.code == 0, timed.err


HEAVY = (
    *("pytorch_lightning", "lightning_fabric", "transformers", "huggingface_hub", "sympy", "wandb", "scipy"),
    *("torch._decomp", "torch._refs", "torch._dynamo.utils", "torch._inductor"),
)
COLD = f"""
import sys
from trainer.process.start import quickly
from trainer.sample import main
with quickly():
    main()
assert not [name for name in {HEAVY} if name in sys.modules], [name for name in {HEAVY} if name in sys.modules]
"""


def test_a_first_picture_waits_for_nothing_that_only_trains(command, tmp_path):
    run = train(command, tmp_path, ["experiment=cgan_shapes"])
    exported = command(f"checkpoint={run}", f"out={tmp_path / 'export'}", "formats=[safetensors]", main=export)
    assert exported.code == 0, exported.err
    for place in (run, tmp_path / "export"):
        given = [f"checkpoint={place}", "prompts=[a purple zebra]", f"out={tmp_path}"]
        done = subprocess.run([sys.executable, "-c", COLD, *given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (tmp_path / "a-purple-zebra_seed0000.png").unlink()
        (tmp_path / "grid.png").unlink()


@pytest.mark.parametrize("experiment", ONE_PICTURE)
def test_one_picture(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment), DRAWN[:1])
    with open(run / "metrics.csv", newline="") as file:
        assert all(float(row["generator/psnr"]) < float(row["generator/psnr_given"]) for row in csv.DictReader(file))
    assert len(load(run)("", seeds=range(3)).images) == 3


@pytest.mark.parametrize("experiment", MATCHING)
def test_matching(experiment, command, tmp_path):
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment), RETRIEVED)
    with open(run / "metrics.csv", newline="") as file:
        measured = [float(row["val/r_precision"]) for row in csv.DictReader(file) if row["val/r_precision"]]
    assert len(measured) == 2
    assert all(0 <= value <= 1 for value in measured)
    judge = Matcher(run)
    images, captions = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8), ["a red apple", "a blue car"]
    assert (judge.images(images) @ judge.captions(captions).T).shape == (3, 2)
    result = command(f"checkpoint={run}", "prompts=[a red apple]", f"out={tmp_path}", main=sample)
    assert result.code == 2
    assert f"a run of {experiment} draws no images" in result.err


@pytest.mark.parametrize("experiment", TOKENIZERS)
def test_tokenizer(experiment, command, tmp_path):
    data_of(experiment)  # its header
    judge = "rfd_effnet2" if experiment == "vqgan" else "rfd_effnet"
    run = train(command, tmp_path, [f"experiment={experiment}"], "shapes" if experiment == "fsq_shapes" else "emoji")
    assert (run / "samples" / "latest.png").exists()
    with open(run / "metrics.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    for key in (f"val/{judge}", "val/psnr", "val/ssim"):
        assert len([row for row in rows if row[key]]) == 2
    assert (run / "checkpoints" / "best.ckpt").exists()
    counts = ["num_images=16", "num_references=40", f"backbone=effnet_lite{2 * (experiment == 'vqgan')}"]
    measured = command(f"checkpoint={run}", *counts, "device=cpu", main=evaluate)
    assert measured.code == 0, measured.err
    for metric in (judge, "psnr", "ssim"):
        assert re.search(rf"^{metric} +\d", measured.out, re.MULTILINE)
    result = command(f"checkpoint={run}", "prompts=[a red apple]", f"out={tmp_path}", main=sample)
    assert result.code == 2
    assert f"a run of {experiment} draws no images" in result.err


@pytest.mark.parametrize("experiment", WRITERS)
def test_writer(experiment, command, tmp_path):
    measured = ["callbacks.captions.max_images=20"]
    run = train(command, tmp_path, [f"experiment={experiment}"], data_of(experiment), measured)
    assert (run / "samples" / "latest.png").exists()
    with open(run / "metrics.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    for key in ("val/cider_d", "val/bleu4", "val/rouge_l", "val/attributes_caption"):
        assert len([row for row in rows if row[key]]) == 2
    for file in ("README.md", "report.html"):
        assert f"python -m trainer.caption checkpoint={run} data=PICTURES" in (run / file).read_text()
    measured = command(f"checkpoint={run}", "num_images=16", "num_references=12", "device=cpu", main=evaluate)
    assert measured.code == 0, measured.err
    for metric in ("cider_d", "bleu4", "rouge_l", "cider_d_nearest", "attributes_caption_nearest"):
        assert re.search(rf"^{metric} +\d", measured.out, re.MULTILINE)
    refused = command(f"checkpoint={run}", "metrics=[fd]", main=evaluate)
    assert (refused.code, "fd needs a run that draws, not one that writes captions" in refused.err) == (2, True)
    drawn = command(f"checkpoint={run}", "prompts=[a red apple]", f"out={tmp_path}", main=sample)
    assert (drawn.code, f"a run of {experiment} draws no images" in drawn.err) == (2, True)
    pictures = tmp_path / "my, pictures"
    pictures.mkdir()
    photo, _ = a_photo(pictures)
    (pictures / "mask.txt").write_text("a white square\n")
    (pictures / "torn.png").write_text("torn")
    several = command(f"checkpoint={run}", f"source={photo}", "num_captions=3", "seed=5", main=caption)
    if experiment == "captioning":
        assert several.err.endswith("captioning always writes the same of a picture; give a run of captioning_vae\n")
    else:
        assert 1 <= several.out.count("mean log probability") <= 3
    one = command(f"checkpoint={run}", f"source={photo}", "beams=2", main=caption)
    assert one.code == 0, one.err
    assert re.search(r"mean log probability a piece: -\d+\.\d{3}$|^the model has no words for it$", one.out)
    whole = command(f"checkpoint={run}", f"data={pictures}", main=caption)
    assert whole.code == 0, whole.err
    assert "torn.png: not a picture that can be read" in whole.err
    lines = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    assert lines[0] == {"file_name": "mask.png", "text": "a white square"}
    if one.out.splitlines()[0] and len(lines) == 2:  # two batches of training may have taught it nothing to say
        assert (lines[1]["file_name"], lines[1]["machine"]) == ("photo.png", True)
        assert lines[1]["model"].startswith(f"{experiment} run/kimg")
        again = command(f"checkpoint={run}", f"data={pictures}", main=caption)
        assert "captions" in again.out
    for arguments, message in (
        ([f"data={tmp_path / 'none'}"], "no such file or folder"),
        ([f"source={photo}", "beams=0"], "beams=0"),
        ([f"source={pictures / 'torn.png'}"], "not a picture that can be read"),
        ([f"data={run / 'samples' / '..' / 'checkpoints'}"], "no picture in it"),
    ):
        refused = command(f"checkpoint={run}", *arguments, main=caption)
        assert (refused.code, message in refused.err, refused.err.count("\n")) == (2, True, 1)


RESUMED = {name: [f"experiment={name}"] for name in EXPERIMENTS if name not in (*PRIORS, *DISTILLED, *REWARDED)}
RESUMED |= {"regularized": VARIANTS["regularized"], "cyclegan": ["experiment=cyclegan", "objective.history=8"]}
RESUMED |= {"source dropout": ["experiment=colorization", *DROPPED]}


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_it_ends_with_the_same_bits_and_its_export_draws_the_same(name, command, tmp_path):
    data = data_of(name) if name in EXPERIMENTS else "shapes"
    measured = [f"callbacks.{each}=null" for each in ("evaluation", "retrieval", "captions")]
    measured += ["callbacks.checkpoint.times=2"]
    whole = train(command, tmp_path, [*RESUMED[name], "kimg=0.032"], data, measured, steps=4)
    half = min((whole / "checkpoints").glob("kimg*.ckpt"))
    result = command(f"resume={half}", f"run_dir={tmp_path / 'resumed'}")
    assert result.code == 0, result.err
    one, other = (checkpoint.read(checkpoint.newest(run)) for run in (whole, tmp_path / "resumed"))
    assert one["global_step"] == other["global_step"] == 4 and checkpoint.read(half)["global_step"] == 2
    for part in ("state_dict", "ema", "optimizer_states", *(["history"] if name == "cyclegan" else [])):
        (first, tree), (second, same_tree) = (tree_flatten(each[part]) for each in (one, other))
        assert tree == same_tree
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    if name in (*MATCHING, *WRITERS, *TOKENIZERS):
        return
    out = tmp_path / "export"
    exported = command(f"checkpoint={whole}", f"out={out}", "formats=[safetensors]", main=export)
    assert exported.code == 0, exported.err
    photo, mask = a_photo(tmp_path)
    given = {"source": photo, "mask": mask} if name in TASKS else {"source": photo} if name in TRANSLATIONS else {}
    assert torch.equal(*(load(each)("a red apple", range(2), **given).pixels for each in (whole, out)))


@pytest.mark.slow
def test_priors(command, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    tokenizer = train(command, tmp_path / "tokenizer", ["experiment=fsq_shapes"])
    for name in PRIORS:
        data_of(name)
        (tmp_path / name).mkdir()
        start = ["~objective.schedule.start"] if name == "gat_latents" else []
        options = [f"experiment={name}", f"tokenizer={tokenizer}", "text.caption_dropout=0.5", *CONSTANT, *start]
        run = train(command, tmp_path / name, options)
        whole = train(command, tmp_path / name, [*options, "kimg=0.032"], place="whole", steps=4)
        tokenizer.rename(tokenizer.with_name("away"))  # what it learned from is not needed any more
        drawing = [f"checkpoint={run}", "prompts=[a small red circle]", "seeds=0-2", "guidance=2", f"out={run / 'out'}"]
        drawn = command(*drawing, main=sample)
        assert drawn.code == 0, drawn.err
        pixels = load(run)(["a small red circle", "a large blue star"], seeds=[1, 2]).pixels
        assert len({tuple(image.flatten().tolist()) for image in pixels}) == 4
        resumed = command(f"resume={run}", "kimg=0.032")
        assert resumed.code == 0, resumed.err
        one, other = (checkpoint.read(checkpoint.newest(each)) for each in (whole, run))
        assert other["global_step"] == 4
        assert all(torch.equal(one["state_dict"][key], value) for key, value in other["state_dict"].items())
        out = tmp_path / name / "export"
        exported = command(f"checkpoint={run}", f"out={out}", "formats=[safetensors]", main=export)
        assert exported.code == 0, exported.err
        draws_alone_the_same(run)
        exports = [load(each)("a small red circle", seeds=1).pixels for each in (run, out)]
        assert torch.equal(*exports)
        tokenizer.with_name("away").rename(tokenizer)
    refused = command("experiment=dalle")
    assert refused.code == 2
    assert "name the run to learn from, as in tokenizer=outputs/fsq" in refused.err


def test_a_matcher_teaches(command, tmp_path):
    (tmp_path / "matcher").mkdir()
    judge = train(command, tmp_path / "matcher", ["experiment=matching"], measured=RETRIEVED)
    taught = [f"objective.matcher={judge}", "objective.matcher_weight=1"]
    run = train(command, tmp_path, ["experiment=cgan_shapes", *taught])
    assert "generator/matcher" in (run / "metrics.csv").read_text()
    shutil.rmtree(judge)
    assert len(load(run)("a small red circle").images) == 1  # what taught it is not needed any more


SINGLE = ["data=shapes_single", "callbacks.evaluation=null", "callbacks.checkpoint.times=2"]


@pytest.mark.parametrize("start", ["cgan_shapes", pytest.param("cvae", marks=pytest.mark.slow)])
def test_a_generator_is_rewarded(start, command, tmp_path):
    """By a matcher, the probe, and pairs of pictures; it draws and is exported without what rewarded it."""
    run = train(command, tmp_path, [f"experiment={start}", *SINGLE], measured=DRAWN[:1])
    judge = train(command, tmp_path, ["experiment=matching"], measured=RETRIEVED, place="matcher")
    pairs = tmp_path / "pairs.jsonl"
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    pairs.write_text('{"better": "a.png", "worse": "b.png"}\n' * 10)
    options = ["experiment=reward", f"init={run}", *SINGLE[1:]]
    rewards = {
        "matching": [f"matcher={judge}"],
        "attributes": ["reward@objective.reward=attributes", "objective.pixel=1"],
        "preference": ["reward@objective.reward=preference", f"objective.reward.pairs={pairs}"],
    }
    for name, reward in rewards.items():
        tuned = train(command, tmp_path, [*options, *reward], measured=DRAWN[:1], place=name)
        assert checkpoint.read(checkpoint.newest(tuned))["config"]["data"]["source"]["max_objects"] == 1
        assert "generator/leash" in (tuned / "metrics.csv").read_text()
    alone = checkpoint.load(run).get_submodule(checkpoint.load(run).draws_with)
    assert all(map(torch.equal, checkpoint.load(tuned).start.parameters(), alone.parameters()))
    tuned, refused = tmp_path / "matching", {"matching": f"matching={judge}", "attributes": "metrics=[attributes]"}
    for name, asked in refused.items():
        out = tmp_path / f"export-{name}"
        exported = command(f"checkpoint={tmp_path / name}", f"out={out}", "formats=[safetensors]", main=export)
        assert exported.code == 0, exported.err
        for place in (tmp_path / name, out):
            judged = command(f"checkpoint={place}", asked, "backbone=effnet_lite2", "num_images=12", main=evaluate)
            assert judged.code == 2
            assert "another one has to judge" in judged.err or "the probe of scenes has not rewarded" in judged.err
    lite = command(f"checkpoint={tuned}", "metrics=[fd]", "num_images=12", main=evaluate)
    assert (lite.code, "taught a network of this run" in lite.err) == (2, True)
    shutil.rmtree(run)
    half = min((tuned / "checkpoints").glob("kimg*.ckpt"))
    resumed = command(f"resume={half}", f"run_dir={tmp_path / 'resumed'}")
    assert resumed.code == 0, resumed.err
    one, other = (checkpoint.read(checkpoint.newest(each)) for each in (tuned, tmp_path / "resumed"))
    assert checkpoint.read(half)["global_step"] == 1 and one["global_step"] == other["global_step"] == 2
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items())
    shutil.rmtree(judge)
    draws_alone_the_same(tuned)
    drawn = [load(each)("a red circle", range(2)).pixels for each in (tuned, tmp_path / "export-matching")]
    assert torch.equal(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["dalle", "maskgit"])
def test_a_prior_of_codes_is_rewarded(command, tmp_path, prior):
    tokenizer = train(command, tmp_path, ["experiment=fsq_shapes"], place="tokenizer")
    run = train(command, tmp_path, [f"experiment={prior}", f"tokenizer={tokenizer}", *CONSTANT], place="prior")
    options = ["experiment=reward_tokens", f"init={run}", "reward@objective.reward=attributes", *SINGLE[1:]]
    tuned = train(command, tmp_path, options, measured=DRAWN[:1], place="tuned")
    shutil.rmtree(run)
    half = min((tuned / "checkpoints").glob("kimg*.ckpt"))
    resumed = command(f"resume={half}", f"run_dir={tmp_path / 'resumed'}")
    assert resumed.code == 0, resumed.err
    one, other = (checkpoint.read(checkpoint.newest(each)) for each in (tuned, tmp_path / "resumed"))
    for part in ("state_dict", "ema"):
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items())
    exported = command(f"checkpoint={tuned}", f"out={tmp_path / 'export'}", "formats=[safetensors]", main=export)
    assert exported.code == 0, exported.err
    drawn = [load(each)("a red circle", range(2)).pixels for each in (tuned, tmp_path / "export")]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", REWARDED)
def test_a_reward_needs_a_run_that_it_fits(name, command, tmp_path):
    data_of(name)  # its header
    refused = command(f"experiment={name}")
    assert refused.code == 2
    assert "name the run to learn from, as in init=outputs/cgan" in refused.err
    refused = command(f"experiment={name}", "init=emoji", f"run_dir={tmp_path / 'run'}")
    assert refused.code == 2
    assert "matcher=null: name the run that rewards" in refused.err


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(variant, command, tmp_path):
    run = train(command, tmp_path, VARIANTS[variant])
    draws_alone_the_same(run)
    pixels = load(run)(["a small red circle", "a large blue star"], seeds=[1, 2]).pixels
    assert pixels.shape[:2] == (4, 3)
    assert len({tuple(image.flatten().tolist()) for image in pixels}) == 4
