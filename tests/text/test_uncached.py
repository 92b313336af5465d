"""Captions that are encoded in each step: the features that a cache would have, and nothing on the disk."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.batch import Batch
from trainer.data.augment import Augment
from trainer.data.folder import Folder
from trainer.data.module import DataModule
from trainer.text.pretrained import Pretrained

CAPTIONS = ["a red apple", "the big blue car and a small green square on the circle", "", "apple"]


@pytest.mark.parametrize("name", ["minilm", "bert", "roberta", "albert", "gpt2", "smollm2", "t5", "clip"])
def test_a_batch_has_the_features_of_the_cache(name: str, tmp_path: Path, save_model: Callable[..., Path]):
    given = {"path": str(save_model("bert" if name == "minilm" else name, tmp_path / "model"))}
    kept, made = (Pretrained(name, 16, 8, cache_dir=str(tmp_path / str(c)), cached=c, **given) for c in (True, False))
    features, ids = kept.prepare(CAPTIONS), pickle.loads(pickle.dumps(made.prepare(CAPTIONS)))  # as to a worker
    assert len(ids) == 4
    for index in (np.arange(4), np.array([1]), np.array([3, 0, 3])):
        expected, loaded = features[index], ids[index]
        assert not loaded.tokens.is_floating_point() and loaded.pooled.shape == (len(index), 0)
        found = made.on_device(loaded)
        assert torch.equal(found.mask, expected.mask)
        for one, other in ((found.tokens, expected.tokens), (found.pooled, expected.pooled)):
            torch.testing.assert_close(one, other.float(), atol=2e-3, rtol=2e-3)
            assert not one.requires_grad
    assert kept.on_device(expected) is expected
    assert not [*(tmp_path / "False").rglob("rows.npy")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_reads_captions_when_they_are_on_the_device(num_workers, tmp_path, save_model, monkeypatch):
    from PIL import Image

    for number, caption in enumerate(CAPTIONS[:2] * 6):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text(caption)
    path = str(save_model("bert", tmp_path / "model"))
    batches = {}
    for cached in (True, False):
        text = Pretrained("bert", 16, 8, path=path, cache_dir=str(tmp_path / str(cached)), cached=cached)
        options = {"seed": 0, "split_seed": 0, "num_workers": num_workers, "cache_dir": str(tmp_path / "cache")}
        module = DataModule(Folder(str(tmp_path)), text, 16, 6, 0.0, Augment(flip=0.5), **options)
        loaded: Batch = next(iter(module.train_dataloader()))
        assert loaded.condition.tokens.is_floating_point() == cached
        batches[cached] = module.transfer_batch_to_device(loaded, torch.device("cpu"), 0)
    one, other = batches[True], batches[False]
    assert torch.equal(one.image, other.image) and torch.equal(one.caption, other.caption)
    torch.testing.assert_close(one.condition.tokens.float(), other.condition.tokens, atol=2e-3, rtol=2e-3)
