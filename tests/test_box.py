"""The models that come with the package draw what is said of them."""

from pathlib import Path

import pytest
import torch

from trainer import load
from trainer.data.scenes import BACKGROUNDS, COLOURS
from trainer.evaluate import main as evaluate
from trainer.exports.generator import TrainedGenerator
from trainer.runs import results, run_folder

BOX = Path(__file__).parent.parent / "trainer" / "weights"
LARGEST = 20 * 2**20  # bytes of a model with all that it needs


def test_each_says_what_it_is():
    assert run_folder.boxed() == sorted(path.name for path in BOX.iterdir() if path.is_dir())
    for name in run_folder.boxed():
        files = {path.name: path for path in (BOX / name).iterdir()}
        assert {*files} == {"README.md", "config.json", "model.safetensors", "samples.png"}
        assert sum(path.stat().st_size for path in files.values()) < LARGEST
        card, config = files["README.md"].read_text(), files["config.json"].read_text()
        for said in ("license: apache-2.0", f"checkpoint={name}", "python -m trainer +experiment="):
            assert said in card
        assert '"/' not in config, "no path of the machine that it was made on"


def test_they_read_by_one_tokenizer(tmp_path):
    """It lies once beside them and is once in memory; an export takes it along."""
    assert [path.name for path in BOX.rglob("tokenizer.json")] == ["tokenizer.json"]
    assert load("shapes").text._tokenizer is load("emoji").text._tokenizer
    TrainedGenerator.of("shapes").save_pretrained(tmp_path / "alone")
    assert (tmp_path / "alone" / "tokenizer.json").read_bytes() == (BOX / "tokenizer.json").read_bytes()
    image, again = (load(path)("a red heart").pixels for path in ("shapes", tmp_path / "alone"))
    assert torch.equal(image, again)


def test_shapes_reads_colour_and_background():
    """Of every colour on every background, the pixel in the middle and one in a corner; 1 of 48 may be wrong."""
    pipe = load("shapes")
    pairs = [(colour, ground) for colour in COLOURS for ground in BACKGROUNDS]
    captions = [f"a large {colour} circle in the centre on a {ground} background" for colour, ground in pairs]
    drawn = torch.cat([pipe(caption).pixels for caption in captions]).float()
    near = [
        (drawn[:, :, row, column] - torch.tensor([table[pair[of]] for pair in pairs])).abs().amax(1) < 40
        for (row, column), table, of in (((16, 16), COLOURS, 0), ((1, 30), BACKGROUNDS, 1))
    ]
    assert (near[0] & near[1]).sum() >= len(pairs) - 1


def test_emoji_reads_colours():
    """In the middle of eight samples the colour of the caption is the strongest."""
    pipe = load("emoji")
    for channel, caption in enumerate(("red heart", "green tree", "blue car")):
        middle = pipe(caption, seeds=range(8)).pixels[:, :, 10:20, 10:20].float().mean((0, 2, 3))
        assert middle.argmax() == channel and middle.max() > middle.mean() + 20, (caption, middle)


@pytest.mark.slow
def test_it_is_measured_as_a_run_is(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("checkpoint=shapes", "metrics=[diversity]", "num_images=16", "anchors=false", main=evaluate)
    assert done.code == 0, done.err
    assert {figure.metric for figure in results.read("outputs/shapes")} == {"diversity_effnet"}


@pytest.mark.parametrize("name", run_folder.boxed())
def test_a_seed_is_an_image_in_any_company(name):
    pipe = load(name)
    alone = pipe("a small red circle on a white background", seeds=3).pixels
    together = pipe(["a small red circle on a white background", "a green heart"], seeds=range(5)).pixels
    assert (together[3].int() - alone[0].int()).abs().max() <= 1
