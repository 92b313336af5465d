"""Folders of classes, and of pictures without a word, through the data module."""

from types import SimpleNamespace

import pytest
from PIL import Image

from trainer.data.folder import Folder
from trainer.errors import UserError
from trainer.text.labels import Labels, Nothing


@pytest.mark.parametrize(("encoder", "rule", "names"), [(Labels, "folder", {"cat", "dog"}), (Nothing, "empty", {""})])
def test_pictures_of_one_class_stand_on_both_sides(module, tmp_path, encoder, rule, names):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    source = Folder(str(tmp_path), uncaptioned=rule)
    data = module(source, text=encoder(width=8), heldout=0.2, split_seed=0, cache_dir=str(tmp_path / ".cache"))
    captions = data.fixed_captions(12)
    assert len(captions) == 12 and set(captions) == names
    assert len(data.heldout) == 8 and set(data.train.captions) == names
    assert next(iter(data.train_dataloader())).condition.pooled.shape == (8, 8)


def test_captions_alone_do_not_group_classes(module, plain):
    """A column of classes is a caption to the source: the split is of pictures all the same."""
    source = plain(40)
    items = source.items()
    source.items = lambda: [type(i)(i.key, ("cat",), "cat", i.load, i.attributes) for i in items]
    data = module(source, text=Labels(width=8), heldout=0.25, split_seed=0)
    data.prepare()
    assert len(data.heldout) == 10


def test_a_run_keeps_the_names_of_its_classes(module, plain):
    config = {"text": {"encoder": {"_target_": "trainer.text.labels.Labels", "width": 64, "classes": None}}}
    source = plain(40)
    data = module(source, text=Labels(width=64))
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(config=config))
    data.setup("fit")
    assert config["text"]["encoder"]["classes"] == sorted({caption for i in source.items() for caption in i.captions})
    with pytest.raises(UserError, match=r"'zebra' is none of the 40 classes"):
        Labels(**{key: config["text"]["encoder"][key] for key in ("width", "classes")})(["zebra"])
