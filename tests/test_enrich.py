"""Descriptions of prompts and captions as typed: printed, drawn by, and kept beside what people have written."""

import json

import numpy as np
import pytest
from PIL import Image

from trainer import load
from trainer.data.folder import Folder
from trainer.enrich import main as enrich
from trainer.errors import UserError
from trainer.process import caches
from trainer.sample import main as sample
from trainer.sampling.conditioning import Conditioning
from trainer.text.enrichment import Enricher


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(language_model, tmp_path_factory):
    return str(language_model(tmp_path_factory.mktemp("my, models") / "tiny", chat=True))


def test_prompts_are_printed_with_their_descriptions(command, model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\na red apple\n")
    texts = Enricher(model)(["a red apple", "a cat"])
    result = command("prompts=[a red apple]", "prompts_file=prompts.txt", f"model={model}", main=enrich)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [f"a red apple -> {texts[0]}", f"a cat -> {texts[1]}"]


def test_images_are_drawn_by_the_description_and_say_so(command, trained, model, tmp_path):
    result = command(
        f"checkpoint={trained}", "prompts=[a red apple]", "seeds=3", "out=here", f"enrich={model}", main=sample
    )
    assert result.code == 0, result.err
    maker = Enricher(model)
    [text] = maker(["a red apple"])
    assert f"a red apple -> {text}\n" in result.err
    image = Image.open(tmp_path / "here" / "a-red-apple_seed0003.png")
    assert {key: image.info[key] for key in ("prompt", "enriched", "enrich", "seed")} == {
        "prompt": "a red apple", "enriched": text, "enrich": maker.name, "seed": "3"}  # fmt: skip
    assert str(tmp_path) not in str(image.info)
    pipe = load(trained)
    drawn = np.asarray(image)
    assert np.array_equal(drawn, np.asarray(pipe(text, 3).images[0]))
    assert np.array_equal(drawn, np.asarray(pipe("a red apple", 3, enrich=model).images[0]))
    assert not np.array_equal(drawn, np.asarray(pipe("a red apple", 3).images[0]))
    again = command(f"checkpoint={trained}", "prompts=[a red apple]", "seeds=3", "out=here", main=sample)
    assert again.code == 0, "without enrich it is as it was"
    assert "enriched" not in Image.open(tmp_path / "here" / "a-red-apple_seed0003.png").info


def test_tars_and_stdin_keep_both_texts(command, trained, model, tmp_path, monkeypatch):
    import io
    import tarfile

    [text] = Enricher(model)(["a cat"])
    (tmp_path / "prompts.txt").write_text("a cat\n")
    given = [f"checkpoint={trained}", f"enrich={model}"]
    many = ["prompts_file=prompts.txt", "images_per_file=2", "seeds=0-1", "out=tars", "processes=1"]
    done = command(*given, *many, main=sample)
    assert done.code == 0, done.err
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        said = json.loads(tar.extractfile("000000001.json").read())
    assert said == {"prompt": "a cat", "enriched": text, "seed": 1, "line": 0}
    refused = command(f"checkpoint={trained}", *many, main=sample)
    assert refused.code == 2 and "was begun with enrich=tiny" in refused.err
    monkeypatch.setattr("sys.stdin", io.StringIO("a cat\n"))
    assert command(*given, "prompts_file=-", "out=lines", main=sample).code == 0
    assert Image.open(tmp_path / "lines" / "a-cat_seed0000.png").info["enriched"] == text
    row = command(*given, "interpolate=[a cat]", "seeds=0,1", "steps=2", "out=row", main=sample)
    assert row.code == 0, row.err
    info = Image.open(tmp_path / "row" / "grid.png").info
    assert json.loads(info["enriched"]) == [text]


def test_negative_and_empty_captions_stay(model):
    asked = []

    def text(captions):
        asked.extend(captions)
        raise StopIteration

    made = Conditioning(enrich=model)
    with pytest.raises(StopIteration):
        made(text, ["a cat", ""])
    assert asked == [Enricher(model)(["a cat"])[0], ""]
    assert made.origin("a cat") == {"prompt": "a cat", "enriched": asked[0]}
    assert Conditioning().origin("a cat") == {"prompt": "a cat"}
    for settings, message in (
        ({"enrich_examples": "lines.txt"}, r"enrich_examples=lines.txt: of a language model; say enrich=smollm2, too"),
        ({"enrich": "smollm2", "compose": "mean"}, r"enrich=smollm2: of captions that stand alone"),
    ):
        with pytest.raises(UserError, match=message):
            Conditioning(**settings)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "abcd":
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_captions_of_a_folder_stay_and_have_descriptions_beside_them(command, model, pictures):
    rows = [
        {"file_name": "a.png", "text": "a red disc", "artist": "me"},
        {"file_name": "b.png", "text": ["a cat", "a small cat"], "concept": "cats"},
        {"file_name": "c.png", "text": "a dog", "enriched": "a dog, by hand"},
        {"file_name": "d.png", "text": None},
    ]
    (pictures / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = command(f"data={pictures}", f"model={model}", main=enrich)
    assert result.code == 0, result.err
    maker = Enricher(model)
    texts = maker(["a red disc", "a cat", "a small cat"])
    assert rows_of(pictures) == [
        rows[0] | {"enriched": texts[0], "enriched_by": maker.name},
        rows[1] | {"enriched": texts[1:], "enriched_by": maker.name},
        *rows[2:],
    ]
    assert result.out.endswith(f"2 of 4 lines enriched by {maker.name}\n")
    before = (pictures / "metadata.jsonl").read_bytes()
    assert "nothing is written" in command(f"data={pictures}", f"model={model}", main=enrich).out
    assert (pictures / "metadata.jsonl").read_bytes() == before
    taken = {item.key: item for item in Folder(str(pictures), uncaptioned="skip").items()}
    assert taken["a.png"].captions == ("a red disc", texts[0])
    assert (taken["a.png"].concept, taken["b.png"].concept) == ("a red disc", "cats")
    assert taken["b.png"].captions == ("a cat", "a small cat", *texts[1:])
    left = Folder(str(pictures), uncaptioned="skip", machine_captions=False).items()
    assert [item.captions for item in left] == [("a red disc",), ("a cat", "a small cat"), ("a dog",)]


def test_captions_of_text_files_are_taken_into_the_table(command, model, pictures):
    (pictures / "a.txt").write_text("a red disc\n")
    assert command(f"data={pictures}", f"model={model}", "out=other.jsonl", main=enrich).code == 0
    assert not (pictures / "metadata.jsonl").exists()
    assert command(f"data={pictures}", f"model={model}", main=enrich).code == 0
    maker = Enricher(model)
    expected = {"file_name": "a.png", "text": "a red disc", "enriched": maker(["a red disc"])[0]}
    assert rows_of(pictures) == [expected | {"enriched_by": maker.name}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=none/at/all"], "prompts=[]: expected texts and none empty"),
        (["prompts=[a]", "model=none/at/all"], "none/at/all: no such folder; give a folder or a hub id"),
        (["prompts=[a]", "data=pictures"], "data=pictures: its captions take the place of prompts"),
        (["prompts=[a]", "out=x"], "out=x: of data=FOLDER; what is made of prompts is printed"),
        (["data=none"], "data=none: no such folder; give one of pictures with captions"),
        (["data=.", "model=x"], "no picture in it"),
        (["prompts=[a]", "checkpoint=RUN"], "no such key"),
        (["prompts=[a]", "modle=x"], "did you mean model?"),
    ],
)
def test_mistakes_are_told_in_a_line(command, arguments, message):
    refused = command(*arguments, main=enrich)
    assert (refused.code, message in refused.err, refused.err.count("\n")) == (2, True, 1), refused.err
