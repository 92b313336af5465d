"""Composed, negative, guided and interpolated captions as typed: files, tars, exports, mistakes."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from trainer import load
from trainer.export import main as export
from trainer.sample import main


@pytest.fixture
def draw(command, of_classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: command(f"checkpoint={of_classes}", *arguments, main=main)


def pixels(file):
    return np.asarray(Image.open(file)).astype(int)


def test_composed_prompts_have_a_folder_of_their_own_and_say_how_they_were_drawn(draw, of_classes):
    result = draw("prompts=[cat:0.7 + dog:0.3, owl]", "compose=mean", "negative=a bee, or two", "seeds=0-1")
    assert result.code == 0, result.err
    (folder,) = (of_classes / "samples").glob("kimg000001.500_compose-mean_negative-a-bee-or-two-????????")
    assert len(list(folder.glob("*.png"))) == 5
    file = next(folder.glob("cat-0-7-dog-0-3-*_seed0001.png"))
    info = Image.open(file).info
    assert (info["prompt"], info["compose"], info["negative"]) == ("cat:0.7 + dog:0.3", "mean", "a bee, or two")
    expected = load(of_classes)("cat:0.7 + dog:0.3", 1, compose="mean", negative="a bee, or two").images[0]
    assert np.array_equal(pixels(file), np.asarray(expected))
    assert draw("prompts=owl", "guidance=2", f"out={folder}").code == 2  # not over what was drawn otherwise


def test_lines_of_stdin_are_guided_too(draw, of_classes, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("cat\n"))
    assert draw("prompts_file=-", "out=here", "guidance=3").code == 0
    expected = np.asarray(load(of_classes)("cat", 0, guidance=3.0).images[0]).astype(int)
    assert abs(pixels(tmp_path / "here/cat_seed0000.png") - expected).max() <= 1


def test_a_row_of_steps_for_each_seed(draw, of_classes, tmp_path):
    result = draw("interpolate=[cat, dog]", "steps=5", "seeds=0,3", "out=here")
    assert result.code == 0, result.err
    assert result.out == "here/grid.png\n10 images in here on cpu\n"
    expected = load(of_classes).interpolate(["cat", "dog"], seeds=[0, 3], steps=5).images
    assert np.array_equal(pixels(tmp_path / "here/cat-to-dog_seed0003_step02.png"), np.asarray(expected[6]))
    info = Image.open(tmp_path / "here/grid.png").info
    assert (json.loads(info["interpolate"]), info["steps"], json.loads(info["seeds"])) == (["cat", "dog"], "5", [0, 3])
    assert draw("interpolate=cat", "seeds=0,3", "steps=3", "out=here").code == 0
    ends = [pixels(tmp_path / f"here/cat_seed0000-to-0003_step0{step}.png") for step in (1, 3)]
    for drawn, image in zip(ends, load(of_classes)("cat", [0, 3]).images, strict=True):
        assert np.array_equal(drawn, np.asarray(image))


def test_tars_hold_what_the_settings_draw_and_refuse_others(draw, of_classes, tmp_path):
    (tmp_path / "captions.txt").write_text("cat + dog\nowl\n")
    given = ["prompts_file=captions.txt", "images_per_file=5", "out=here", "processes=1", "compose=mean"]
    done = draw(*given, "guidance=2")
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "here/00000.tar") as tar:
        drawn = np.asarray(Image.open(tar.extractfile("000000000.png")))
    assert np.array_equal(drawn, np.asarray(load(of_classes)("cat + dog", 0, compose="mean", guidance=2.0).images[0]))
    assert "was begun with guidance=2.0, this has 3.0" in draw(*given, "guidance=3").err
    assert "was begun with guidance=2.0, this has None" in draw(*given).err


@pytest.mark.parametrize("name", ["model.safetensors", pytest.param("model.pt2", marks=pytest.mark.slow)])
def test_an_export_composes_and_is_guided_as_its_run(command, of_classes, tmp_path, name):
    kind = "torch_export" if name == "model.pt2" else "safetensors"
    done = command(f"checkpoint={of_classes}", f"out={tmp_path}", f"formats={kind}", main=export)
    assert done.code == 0, done.err
    pipes = [load(path) for path in (of_classes, tmp_path / name)]
    for settings in ({"compose": "mean"}, {"negative": "dog"}, {"guidance": 3.0, "negative": "dog"}):
        one, other = (pipe("cat + owl", range(3), **settings).pixels.int() for pipe in pipes)
        assert (one - other).abs().max() <= 1
    one, other = (pipe.interpolate(["cat", "dog"], steps=3).pixels.int() for pipe in pipes)
    assert (one - other).abs().max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompts=cat", "compose=sum"], "compose=sum: expected mean, words or null"),
        (["prompts=cat + ", "compose=mean"], "is no part; expected 'a cat:2 + a dog:1'"),
        (["prompts=cat + dog", "compose=words"], "2 tokens, the model reads at most text.max_tokens=1"),
        (["prompts=cat", "guidence=3"], "guidence: no such key; did you mean guidance"),
        (["prompts=cat", "guidance_scale=3"], "guidance_scale: no such key; did you mean guidance?"),
        (["prompts=cat", "negative_prompt=dog"], "negative_prompt: no such key; did you mean negative?"),
        (["prompts=cat", "guidance=much"], "guidance: Value 'much'"),
        (["prompts=cat", "negative="], "negative: expected a caption"),
        (["prompts=cat", "negative_scale=2"], "of negative='a dog' alone"),
        (["interpolate=[cat, dog]", "prompts=cat"], "take the place of prompts; leave one of them out"),
        (["interpolate=[a, b, c]"], "expected two captions, as in interpolate=[a cat, a dog]"),
        (["interpolate=[cat, dog]", "steps=1"], "steps=1: expected 2 to 1000"),
    ],
)
def test_mistakes_are_one_line(draw, arguments, message):
    result = draw(*arguments)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert message in result.err


def test_a_run_without_caption_dropout_is_not_guided(command, trained):
    result = command(f"checkpoint={trained}", "prompts=a", "guidance=3", main=main)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert (
        "this run has seen no empty caption to guide away from; train one with text.caption_dropout=0.1" in result.err
    )


def test_caption_dropout_is_a_probability(command):
    result = command("+experiment=cgan", "text.caption_dropout=1.5")
    assert (result.code, result.err) == (2, "text.caption_dropout=1.5: expected a probability in [0, 1), as 0.1\n")
