"""Runs of image tasks: each of them in ONNX, in bulk, and before sources that cannot be taken."""

import tarfile

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from tests.exports.conftest import HASHES, TRANSFORMER, WIDTH, made
from trainer import load
from trainer.sample import main as sample

UNET, SR = {"base_channels": 4, "max_channels": 8}, {"channels": 8, "depth": 2}
CASES = {
    "inpainting": ("unet", "inpainting.Inpainting", UNET),
    "super_resolution": ("residual_sr", "super_resolution.SuperResolution", SR),
    "super_resolution by unet": ("unet", "super_resolution.SuperResolution", UNET),
    "denoising": ("unet", "denoising.Denoising", UNET),
    "enhancement": ("unet", "enhancement.Enhancement", UNET),
    "colorization": ("unet", "colorization.Colorization", UNET),
    "restoration": ("unet", "restoration.Restoration", UNET),
    "translation": ("unet", "translation.Translation", UNET),
    "deformable": ("unet", "translation.Translation", UNET | {"deformable": True}),
    "pix2pixhd": ("coarse_to_fine", "translation.Translation", UNET | {"fine_channels": 4, "num_blocks": 1}),
}


def save_run(folder, family, kind, sizes, **task):
    """A checkpoint of a generator that starts from a picture, far from what that starts as."""
    torch.manual_seed(0)
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    shared = {"resolution": [32, 48], "text_channels": WIDTH, "text": TRANSFORMER}
    generator = {"_target_": f"trainer.networks.{family}.Generator", "latent_channels": 8, "style_channels": 16,
                 **shared, **sizes, "task": {"_target_": f"trainer.tasks.{kind}", **task}}  # fmt: skip
    objective = {
        "_target_": "trainer.objectives.restoration.Restoration", "generator": generator,
        "discriminator": {"_target_": "trainer.networks.dcgan.Discriminator", **shared, **UNET},
        "loss": {"_target_": "trainer.losses.adversarial.NonSaturating"},
        "reconstruction": {"_target_": "trainer.losses.reconstruction.charbonnier", "_partial_": True},
        "optimizer": {"generator": adam, "discriminator": adam}, "seed": 0,
        "schedule": {"_target_": "trainer.objectives.schedules.constant", "_partial_": True},
    }  # fmt: skip
    run = instantiate(objective, _convert_="all")
    for name, parameter in run.generator.named_parameters():
        if name.endswith(("image.weight", "flow.weight")):
            torch.nn.init.normal_(parameter, std=0.1)
    source = {"_target_": "trainer.data.shapes.Shapes", "num_images": 100}
    run.config = {"name": "small", "objective": objective, "text": {"encoder": HASHES, "caption_dropout": 0.1},
                  "data": {"resolution": [32, 48], "source": source}}  # fmt: skip
    run.images_seen, run.ema = 1500, {f"generator.{key}": p for key, p in run.generator.named_parameters()}
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": run.state_dict(), "global_step": 30}
    run.on_save_checkpoint(content)
    torch.save(content, folder / "checkpoints" / "kimg000001.500.ckpt")
    return folder


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "colorization"]


@pytest.mark.parametrize("name", ["colorization", *SLOW])
def test_a_task_in_onnx_in_bulk_and_with_sources_that_cannot_be_taken(name, command, tmp_path):
    run = save_run(tmp_path / "run", *CASES[name])
    photo, mask, other = tmp_path / "photo.png", tmp_path / "mask.png", tmp_path / "other.png"
    pixels = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    Image.fromarray(pixels).resize((50, 40)).convert("CMYK").convert("RGBA").save(photo)
    white = Image.new("L", (50, 40))
    white.paste(255, (10, 10, 30, 30))
    white.save(mask)
    white.resize((9, 8)).save(other)
    holes = [f"mask={mask}"] if name == "inpainting" else []
    given = {"source": photo} | ({"mask": mask} if holes else {})
    expected = load(run)("a red star", range(2), **given).pixels
    assert expected.float().std() > 10

    out = made(run, tmp_path / "out", "formats=[onnx]")
    assert not (out / "infer.py").exists(), "it cannot draw without a source"
    found = load(out / "model.onnx")("a red star", range(2), **given).pixels
    assert (found.int() - expected.int()).abs().max() <= 1

    (tmp_path / "lines.txt").write_text("a red star\na blue circle\n")
    bulk = [f"checkpoint={run}", f"prompts_file={tmp_path / 'lines.txt'}", "images_per_file=2", "processes=1", *holes]
    done = command(*bulk, f"source={photo}", f"out={tmp_path / 'tars'}", main=sample)
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar, Image.open(tar.extractfile("000000000.png")) as image:
        assert (torch.tensor(list(image.tobytes())).view(*expected.shape[2:], 3).permute(2, 0, 1).int()
                - expected[0].int()).abs().max() <= 1  # fmt: skip

    (tmp_path / "torn.png").write_bytes(photo.read_bytes()[:60])
    bad = {
        "no such file or folder": [f"source={tmp_path / 'none.png'}", *holes],
        "not a picture that can be read": [f"source={tmp_path / 'torn.png'}", *holes],
        "expected the same size": [f"source={photo}", f"mask={other}"],
        "a run of an image task starts from a picture": [],
        "of a picture, and none is given": [f"mask={mask}"],
        "this run has never drawn": [f"source={photo}", *holes, "source_guidance=2"],
    }
    for message, arguments in bad.items():
        for line in (["prompts=[a red star]"], bulk[1:4]):
            refused = command(f"checkpoint={run}", *line, *arguments, f"out={tmp_path / 'bad'}", main=sample)
            assert refused.code == 2, (message, line)
            assert message in refused.err.splitlines()[-1], refused.err
            assert "Traceback" not in refused.err
    assert not list((tmp_path / "bad").glob("*.png")) and not list((tmp_path / "bad").glob("*.tar"))
