"""What a picture shows, in the words of the data."""

import pytest
import torch
from PIL import Image

from tests.editing.test_directions import JUDGE
from trainer import load
from trainer.editing import captions
from trainer.errors import UserError

CAPTIONS = ["a red car", "a grey house", "a red apple"]


def test_the_caption_of_the_greatest_cosine_is_the_nearest_and_they_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path))
    monkeypatch.setattr(captions, "AT_ONCE", 2)
    asked = []

    def read(some):
        asked.append([*some])
        return JUDGE.captions(some) * 100  # not a unit vector

    judge = JUDGE._replace(captions=read)
    red, grey = (torch.tensor(colour).view(1, 3, 1, 1).expand(-1, -1, 16, 16) for colour in ([1, -0.9, -1], [0.1] * 3))
    assert captions.nearest(judge, red, CAPTIONS) == "a red car"
    assert captions.nearest(judge, grey, CAPTIONS) == "a grey house"
    assert asked == [CAPTIONS[:2], CAPTIONS[2:]]
    captions.nearest(judge, grey, CAPTIONS[:2])
    captions.nearest(judge._replace(sha256="another"), grey, CAPTIONS)
    assert len(asked) == 5


def test_captions_are_those_of_the_data_evenly_spread(trained, monkeypatch):
    pipe = load(trained)
    with pytest.raises(UserError, match=r"does not say what data.*; or say what the picture shows: caption="):
        captions.of_data(pipe)
    source = {"_target_": "trainer.data.shapes.Shapes", "num_images": 30, "max_objects": 1}
    pipe.config["data"] = {"source": source, "resolution": 16, "cache_dir": None}
    every = captions.of_data(pipe)
    assert len(every) > 20 and all(each.startswith("a ") for each in every)
    monkeypatch.setattr(captions, "MOST", 3)
    assert captions.of_data(pipe) == [every[0], every[(len(every) - 1) // 2], every[-1]]
    pipe.config["data"]["source"] = {"_target_": "trainer.data.folder.Folder", "path": "gone"}
    with pytest.raises(UserError, match=r"gone.*; or say what the picture shows: caption="):
        captions.of_data(pipe)


def test_the_captions_of_data_that_stay_where_they_are_cost_no_decoded_copy(trained, tmp_path):
    for number, caption in enumerate(["a red star", "a blue star"]):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    pipe, source = load(trained), {"_target_": "trainer.data.folder.Folder", "path": str(tmp_path)}
    pipe.config["data"] = {"source": source, "resolution": 16, "cache_dir": str(tmp_path / "kept"), "decoded": False}
    assert captions.of_data(pipe) == ["a red star", "a blue star"]
    assert all("-index-" in path.name for path in (tmp_path / "kept").iterdir())
