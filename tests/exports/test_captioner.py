"""A captioner as two programs: they write what trainer.caption writes, in a process that has no PyTorch."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from trainer import load
from trainer.caption import main as caption
from trainer.data.build import fit
from trainer.export import main
from trainer.exports.caption import pixels
from trainer.sampling.captions import beam_search

TOKENS, WORDS = 12, ["a small red star on a white background", "two blue circles", "an apple", "green trees, cut"]
FAMILIES = {
    "captioning": ("captioner.Captioner", "captioning.Captioning", {}),
    "captioning_vae": ("varied_captioner.VariedCaptioner", "captioning_vae.CaptioningVAE", {"latent_channels": 3}),
}
INFER = """
import infer
for name in ("wide", "clear", "small"):
    infer.main(f"{name}.png")
"""


def save_run(folder, family):
    """A checkpoint of a captioner of random weights, whose captions differ from picture to picture."""
    torch.manual_seed(0)
    network, kind, more = FAMILIES[family]
    text = {"_target_": "trainer.text.pieces.Pieces", "name": "minilm", "width": 384, "max_tokens": TOKENS}
    captioner = {
        "_target_": f"trainer.networks.{network}", "resolution": [16, 32], "vocabulary": 30522, "max_tokens": TOKENS,
        "base_channels": 4, "max_channels": 8, "word_channels": 8, "width": 16, "num_layers": 2, "num_heads": 2, **more,
    }  # fmt: skip
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    schedule = {"_target_": "trainer.objectives.schedules.constant", "_partial_": True}
    objective = {"_target_": f"trainer.objectives.{kind}", "captioner": captioner, "optimizer": {"captioner": adam},
                 "schedule": schedule, "seed": 0}  # fmt: skip
    run = instantiate(objective, _convert_="all")
    run.captioner.learn(instantiate(text)(WORDS).tokens)
    for name, parameter in run.captioner.named_parameters():
        if name.startswith(("blocks", "regions", "pieces", "narrow", "latent")):
            parameter.data.mul_(3)
    source = {"_target_": "trainer.data.shapes.Shapes", "num_images": 100}
    run.config = {"name": family, "objective": objective, "text": {"encoder": text},
                  "data": {"resolution": [16, 32], "source": source}}  # fmt: skip
    run.images_seen, run.ema = 1500, {f"captioner.{k}": p * 1.1 for k, p in run.captioner.named_parameters()}
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": run.state_dict(), "global_step": 30}
    run.on_save_checkpoint(content)
    torch.save(content, folder / "checkpoints" / "kimg000001.500.ckpt")
    return folder


@pytest.fixture(scope="module", params=["captioning", pytest.param("captioning_vae", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        out = folder / "out"
        patch.setattr("sys.argv", ["export", f"checkpoint={save_run(folder / 'run', request.param)}", f"out={out}",
                                   "formats=[safetensors,onnx]"])  # fmt: skip
        main()
    draw = np.random.default_rng(0)
    for name, size in (("wide", (40, 24)), ("clear", (20, 20)), ("small", (32, 16))):
        image = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size)
        if name == "clear":
            image.putalpha(Image.linear_gradient("L").resize(size))
        image.save(out / f"{name}.png")
    return folder / "run", out


def test_it_writes_what_the_run_writes(exported, without, command):
    """Of a captioner with a latent what the middle of its prior does; trainer.caption draws one for each picture."""
    run, out = exported
    found = without({"torch", "trainer", "transformers"}, INFER, out).splitlines()
    assert len(found) == 3 and len(set(found)) > 1, "captions that hang on the picture"
    if "vae" in out.parent.name:
        pipe = load(run)
        from trainer.data.build import fit
        from trainer.data.files import open_image

        size = [16, 32]
        pixels = [np.asarray(fit(open_image(out / f"{name}.png", size), size)) for name in ("wide", "clear", "small")]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        with pipe.objective.ema_weights():
            ids, _ = beam_search(pipe.objective.captioner.eval(), images, pipe.text.end, 1, torch.zeros(3, 3))
        assert found == pipe.text.texts(ids.tolist())
        return
    for name, text in zip(("wide", "clear", "small"), found, strict=True):
        for place in (run, out):  # the weights beside the programs, too
            told = command(f"checkpoint={place}", f"source={out / name}.png", "beams=1", main=caption)
            assert told.out.splitlines()[0] == text


def test_the_programs_say_what_they_take_and_what_is_never_written(exported):
    run, out = exported
    told, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    encoder = told["programs"]["encoder.onnx"]["inputs"]
    assert encoder == {"image": "(N, 3, 16, 32) float32"} | (
        {"latent": "(N, 3) float32"} if "vae" in out.parent.name else {}
    )
    assert "python infer.py photo.png" in card and f"(N, L <= {TOKENS}) int64" in card
    session = onnxruntime.InferenceSession(str(out / "decoder.onnx"))
    captioner = load(run).objective.captioner
    seen = np.zeros((2, *session.get_inputs()[0].shape[1:]), np.float32)
    (logs,) = session.run(None, {"seen": seen, "ids": np.full((2, TOKENS), 30522)})
    assert logs.shape == (2, 30522)
    assert np.array_equal(np.isfinite(logs[0]), captioner.known.numpy())
    np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-5)


def test_what_cannot_be_made_is_one_line(exported, command, tmp_path):
    run, out = exported
    refused = command(f"checkpoint={run}", f"out={tmp_path}", "formats=[torch_export]", main=main)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "writes captions, and does so in ONNX alone" in refused.err
    done = subprocess.run([sys.executable, out / "infer.py"], capture_output=True, text=True)
    assert (done.returncode, "python infer.py PICTURE" in done.stderr) == (2, True)


def test_a_picture_of_16_bits_is_read_as_in_training(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(64, 48).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    for size in ((16, 16), (16, 24), (40, 16)):
        image = fit(Image.open(tmp_path / "grey.png"), size)
        expected = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        assert np.array_equal(pixels(str(tmp_path / "grey.png"), *size), expected)
    assert expected.std() > 0.3  # and not white, but for its darkest part
