"""Captions that a machine wrote: how often their images are seen beside those of people."""

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from trainer.config import signatures
from trainer.data.folder import Folder
from trainer.data.sampler import aliases
from trainer.errors import UserError

PEOPLE, MACHINE = 6, 9


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = [{"file_name": f"{i:02d}.png", "text": str(i)} for i in range(PEOPLE + MACHINE)]
    for i, row in enumerate(rows):
        Image.new("RGB", (8, 8), (16 * i, 0, 0)).save(folder / row["file_name"])
        row |= {"machine": True, "score": -0.1} if i >= PEOPLE else {}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def seen(data, count):
    """(count,) numbers of images, as their captions have them."""
    found = torch.cat([batch.caption for batch in islice(iter(data.train_dataloader()), count // data.batch_size)])
    captions = data.train.cache.captions
    return np.array([int(captions[number]) for number in found])


def test_each_image_is_seen_in_proportion_to_its_weight():
    weights = np.random.default_rng(0).uniform(0.01, 3, 200)
    keep, other = aliases(weights.copy())
    total = keep.copy()
    np.add.at(total, other, 1 - keep)
    np.testing.assert_allclose(total, 200 * weights / weights.sum(), rtol=1e-9)
    assert (keep >= 0).all() and (keep <= 1).all()
    assert (aliases(np.full(7, 0.3))[0] == 1).all(), "all alike: each epoch has each image once"


@pytest.mark.parametrize("weight", [0.25, 0.75])
def test_images_that_a_machine_captioned_are_seen_less(module, root, weight):
    count = 40 * 400
    times = np.bincount(seen(module(Folder(root, machine_captions=weight), batch_size=40), count), minlength=15)
    share = count / (PEOPLE + weight * MACHINE)
    assert abs(times[:PEOPLE] - share).max() < 0.08 * share
    assert abs(times[PEOPLE:] - weight * share).max() < 0.12 * weight * share


def test_true_and_one_see_all_alike_and_false_and_zero_see_none(module, root):
    for all_alike in (True, 1, 1.0):
        order = seen(module(Folder(root, machine_captions=all_alike), batch_size=5), 30)
        assert (np.sort(order.reshape(2, 15)) == np.arange(15)).all()
    for none in (False, 0, 0.0):
        assert seen(module(Folder(root, machine_captions=none), batch_size=6), 60).max() == PEOPLE - 1


def test_ranks_workers_and_a_resume_see_the_same(module, root):
    def data(**changes):
        return module(Folder(root, machine_captions=0.5), **changes)

    whole = seen(data(), 80)
    assert (seen(data(num_workers=1), 80) == whole).all()
    later = data()
    later.start_at(32)
    assert (seen(later, 48) == whole[32:]).all()
    blocks = []
    for rank in range(2):
        part = data()
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        part.trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy, lightning_module=None)
        blocks.append(seen(part, 80).reshape(10, 4))
    assert (np.concatenate(blocks, 1).flatten() == whole).all()


def test_another_weight_decodes_nothing_anew(root):
    assert Folder(root, machine_captions=0.5).fingerprint() == Folder(root).fingerprint()
    assert Folder(root, machine_captions=0).fingerprint() != Folder(root).fingerprint()


@pytest.mark.parametrize("weight", [-0.1, 2])
def test_a_weight_out_of_range_is_told(root, weight):
    with pytest.raises(UserError, match=rf"data.source.machine_captions={weight}: expected how often"):
        Folder(root, machine_captions=weight)


@pytest.mark.parametrize("given", [True, False, 1, 0.5])
def test_a_configuration_may_say_yes_no_or_how_often(given):
    node = OmegaConf.create({"_target_": "trainer.data.folder.Folder", "path": "x", "machine_captions": given})
    signatures.check_call("data.source", node)
    node.machine_captions = "often"
    with pytest.raises(UserError, match=r"data.source.machine_captions=often: expected bool or float"):
        signatures.check_call("data.source", node)
