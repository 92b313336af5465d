"""`python -m trainer.edit` as typed."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import save_run
from trainer import load
from trainer.edit import main
from trainer.sampling import describing
from trainer.sampling.captions import Written

NAMES = ["edit.png", "inversion.png", "source.png", "strip.png"]


@pytest.fixture
def edit(command, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(trained)("a red car", seeds=3).images[0].resize((40, 40)).save("photo.png")

    def run(*arguments, checkpoint=trained):
        return command(f"checkpoint={checkpoint}", "source=photo.png", "perceptual=false", *arguments, main=main)

    return run


def test_a_picture_its_inversion_the_edit_and_a_strip(edit, trained, matching, tmp_path):
    asked = ["caption=a red car", "prompt=a blue car, [parked]", f"matcher={matching}", "strength=0.5", "seed=2"]
    result = edit(*asked)
    assert result.code == 0, result.err
    [folder] = (trained / "edits").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    *files, line = result.out.splitlines()
    assert sorted(files) == [str(folder / name) for name in NAMES]
    assert line.startswith("inversion ") and ' dB; score of "a blue car, [parked]" ' in line
    before, after = (float(each.split()[0]) for each in line.partition("parked]\" ")[2].split(", "))
    assert after > before
    told = Image.open(folder / "edit.png").info
    assert told == Image.open(folder / "strip.png").info
    assert told["prompt"] == "a blue car, [parked]" and told["caption"] == "a red car" and told["strength"] == "0.5"
    assert told["seed"] == "2" and told["source"] == "photo.png" and told["judge"] == matching.name
    assert told["checkpoint"] == f"{trained.name}/kimg000001.500.ckpt"
    pixels = {name: np.asarray(Image.open(folder / name)) for name in NAMES}
    assert pixels["source.png"].shape == pixels["edit.png"].shape == (16, 16, 3)
    assert not np.array_equal(pixels["edit.png"], pixels["inversion.png"])
    assert pixels["strip.png"].shape[1] > 7 * 128, "the source and six strengths"
    again = edit(*asked, "out=again")
    assert again.out.splitlines()[-1] == line
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / "edit.png")), pixels["edit.png"])


def test_without_a_judge_the_prompt_is_the_caption(edit, tmp_path):
    result = edit("caption=a red car", "prompt=a red car", "out=same")
    assert result.code == 0, result.err
    assert "score" not in result.out
    edited, inverted = (np.asarray(Image.open(tmp_path / "same" / f"{name}.png")) for name in ("edit", "inversion"))
    assert np.array_equal(edited, inverted)
    assert edit("caption=a red car", "prompt=a blue car", "out=same").code == 2, "files of another edit stay"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompt="], "prompt: expected what the picture shall show"),
        (["prompt=a blue car"], "caption: the generator is told what the picture shows"),
        (["prompt=a", "caption=b", "source=none.png"], "source=none.png: no such file"),
        (["prompt=a", "caption=b", "source=torn.png"], "source=torn.png: not a picture that can be read"),
        (["prompt=a", "caption=b", "source=."], "source=.: a folder; give one picture"),
        (["prompt=a", "caption=b", "strength=-1"], "strength=-1.0: expected a number from 0"),
        (["prompt=a", "caption=b", "captioning=RUN"], "caption=b captioning=RUN: leave one of them out"),
        (["prompt=a", "caption=b", "matcher=RUN", "clip=ID"], "matcher=RUN clip=ID: leave one of them out"),
        (["prompt=a", "caption=b", "how=mapper"], "how=mapper: expected optimizer or directions"),
        (["prompt=a", "caption=b", "how=directions"], "space of a judge of pictures: matcher=RUN, or clip=ID"),
        (["prompt=a", "matcher={matching}"], "does not say what data it learned from; or say what the picture shows"),
        (["prompt=a", "caption=b", "matcher=RUN"], "checkpoint RUN does not exist"),
        (["prompt=a", "captioning={matching}"], "writes no captions"),
        (["prompt=a", "caption=b", "matcher={trained}"], "has no matcher: give a run of experiment=matching"),
    ],
)
def test_mistakes_are_one_line(edit, trained, matching, tmp_path, arguments, said):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    result = edit(*(each.format(trained=trained, matching=matching) for each in arguments))
    assert result.code == 2
    assert said in result.err and result.err.count("\n") == 1
    assert not (trained / "edits").exists()


def test_a_captioner_says_what_a_picture_shows(edit, trained, monkeypatch):
    def described(pipe, paths, how, alone):
        assert alone and how.count == 1
        return [(paths[0], [Written("a red car", -0.1)])]

    monkeypatch.setattr(describing, "described", described)
    result = edit("prompt=a blue car", f"captioning={trained}", "out=told")
    assert result.code == 0, result.err
    assert result.out.startswith("caption: a red car\n")
    assert Image.open("told/edit.png").info["caption"] == "a red car"


@pytest.fixture
def of_shapes(trained):
    """The same run, which says that it learned from shapes."""
    [*_, file] = sorted((trained / "checkpoints").iterdir())
    content = torch.load(file, weights_only=False)
    source = {"_target_": "trainer.data.shapes.Shapes", "num_images": 30, "max_objects": 1}
    content["config"]["data"] = {"source": source, "resolution": 16, "cache_dir": None}
    torch.save(content, file)
    return trained


def test_directions_move_channels_and_the_nearest_caption_is_said(edit, of_shapes, matching, monkeypatch):
    monkeypatch.setattr("trainer.editing.directions.SPREAD", 32)
    monkeypatch.setattr("trainer.editing.directions.IMAGES", 2)
    asked = ["prompt=a blue car", f"matcher={matching}", "how=directions"]
    result = edit(*asked, "out=led")
    assert result.code == 0, result.err
    first, *_, last = result.out.splitlines()
    caption, count = first.removeprefix("caption: ").split(" (the nearest of ")
    assert caption.startswith("a ") and 20 < int(count.removesuffix(")")) <= 60
    before, after = (float(each.split()[0]) for each in last.partition('car" ')[2].split(", "))
    assert after > before
    told = Image.open("led/edit.png").info
    assert told["caption"] == caption and told["how"] == "directions"
    assert not np.array_equal(np.asarray(Image.open("led/edit.png")), np.asarray(Image.open("led/inversion.png")))
    monkeypatch.setattr("trainer.editing.directions.measured", None)
    assert edit(*asked, "out=again").out.splitlines()[-1] == last, "what was measured is kept"
    given = edit(*asked, "caption=a red car", "out=given")
    assert given.code == 0 and "caption:" not in given.out


def test_a_judge_leads_a_generator_that_reads_nothing(edit, matching, tmp_path):
    folder = tmp_path / "outputs" / "nothing" / "2026-01-31_12-00-00"
    encoder = {"_target_": "trainer.text.labels.Nothing", "width": 16}
    run = save_run(folder, {"_target_": "torch.nn.Identity"}, {"encoder": encoder})
    alone = edit("prompt=a blue car", checkpoint=run)
    assert alone.code == 2 and "reads no captions, so that a judge of pictures has to: matcher=RUN" in alone.err
    led = edit("prompt=a blue car", f"matcher={matching}", "out=led", checkpoint=run)
    assert led.code == 0, led.err
    before, after = (float(each.split()[0]) for each in led.out.partition('car" ')[2].split(", "))
    assert after > before


def test_a_judge_draws_nothing_and_classes_are_captions(edit, matching, of_classes):
    result = edit("prompt=a", "caption=b", checkpoint=matching)
    assert result.code == 2 and "draws no images" in result.err
    assert edit("prompt=a", "caption=b", "out=classes", checkpoint=of_classes).code == 0
