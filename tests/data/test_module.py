import os
import time
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from trainer.data.augment import Augment
from trainer.data.cache import open_cache
from trainer.data.split import split
from trainer.errors import UserError

EVERYTHING = Augment(flip=0.5, crop=1, colour=0.2, noise=0.05)


def batches(data, count):
    """As they come to the device."""
    loaded = islice(iter(data.train_dataloader()), count)
    return [data.transfer_batch_to_device(batch, torch.device("cpu"), 0) for batch in loaded]


def parts(batch):
    return batch.image, batch.condition.tokens, batch.condition.mask, batch.caption, batch.position


def joined(several):
    return [torch.cat(part) for part in zip(*map(parts, several), strict=True)]


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        assert torch.equal(a, b)


def test_a_batch_is_what_its_positions_say(module, plain, pixels):
    data = module(plain(50))
    for batch in batches(data, 3):
        assert batch.image.dtype == torch.uint8 and batch.image.shape == (8, 3, 8, 8)
        assert batch.image.is_contiguous(memory_format=torch.channels_last)
        for image, caption in zip(batch.image, batch.caption.tolist(), strict=True):
            assert (image.permute(1, 2, 0).numpy() == np.asarray(pixels(caption, 8))).all()
        captions = data.train.cache.captions
        said = data.text([captions[i] for i in batch.caption.tolist()])
        assert torch.equal(batch.condition.tokens, said.tokens)
    assert torch.equal(batch.position, torch.arange(16, 24))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(module, plain, num_workers):
    source = plain(13, num_captions=3)  # epochs end within batches
    alone = batches(module(source, augment=EVERYTHING), 12)
    helped = batches(module(source, augment=EVERYTHING, num_workers=num_workers), 12)
    assert_same(joined(alone), joined(helped))
    assert helped[0].image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [8, 104, 5 * 13 * 8])
def test_a_resumed_stream_goes_on_as_if_never_stopped(module, plain, start, num_workers):
    source = plain(13, num_captions=3)
    whole = batches(module(source, augment=EVERYTHING), start // 8 + 4)
    resumed = module(source, augment=EVERYTHING, num_workers=num_workers)
    resumed.start_at(start)
    assert_same(joined(whole[start // 8 :]), joined(batches(resumed, 4)))


@pytest.mark.parametrize("start", [1, 13, 29])  # after another batch size, or a budget that no batch size divides
def test_a_stream_may_start_anywhere(module, plain, start):
    source = plain(13, num_captions=3)
    whole = joined(batches(module(source, augment=EVERYTHING, batch_size=1), start + 16))
    data = module(source, augment=EVERYTHING, num_workers=1)
    data.start_at(start)
    assert_same([part[start:] for part in whole], joined(batches(data, 2)))


class Ranked:
    def __init__(self, global_rank, world_size):
        self.global_rank, self.world_size = global_rank, world_size
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))


def test_ranks_share_each_batch_in_contiguous_blocks(module, plain):
    source = plain(13, num_captions=3)
    alone = batches(module(source, augment=EVERYTHING), 6)
    ranks = []
    for rank in range(2):
        data = module(source, augment=EVERYTHING)
        data.trainer = Ranked(rank, 2)
        ranks.append(batches(data, 6))
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert len(first) == len(second) == 4
        assert_same(parts(whole), joined([first, second]))


def test_ranks_must_divide_the_batch(module):
    data = module(batch_size=8)
    data.trainer = Ranked(0, 3)
    with pytest.raises(UserError, match=r"data\.batch_size=8: expected a multiple of the 3 ranks"):
        data.train_dataloader()


def test_every_training_image_once_an_epoch(module, plain):
    data = module(plain(40), heldout=0.25)
    size = len(data_train := prepared(data).train)
    seen = joined(batches(module(plain(40), heldout=0.25, batch_size=size), 3))[3].reshape(3, size)
    expected = data_train.cache.caption_ids[data_train.cache.caption_starts[data_train.indices]]
    for epoch in seen.numpy():
        assert sorted(epoch) == sorted(expected)
    assert (seen[0] != seen[1]).any()


def prepared(data):
    data.prepare()
    return data


def test_captions_of_an_image_take_turns(module, plain):
    seen = joined(batches(module(plain(4, num_captions=3)), 150))[3]
    counts = torch.bincount(seen, minlength=12).reshape(4, 3)
    assert (counts.sum(1) == 300).all()
    assert (counts > 70).all() and (counts < 130).all()


def test_an_image_is_augmented_anew_each_epoch(module, plain):
    (first, second) = batches(module(plain(1), augment=Augment(noise=0.1), batch_size=1), 2)
    assert (first.image != second.image).any()
    (many,) = batches(module(plain(1), augment=Augment(noise=0.1), batch_size=8), 1)
    assert len(many.image.flatten(1).unique(dim=0)) == 8


class Seen(LightningModule):
    """Keeps the images that a training brings to it."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.images = []

    def training_step(self, batch, index):
        self.images.append(batch.image)

    def configure_optimizers(self):
        return None


def test_a_training_augments_on_its_device(module, plain, tmp_path):
    data, seen = module(plain(50), augment=EVERYTHING), Seen()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "use_distributed_sampler": False}
    Trainer(accelerator="cpu", limit_train_batches=2, max_epochs=1, default_root_dir=tmp_path, **quiet).fit(seen, data)
    for image, raw in zip(seen.images, data.train_dataloader(), strict=False):
        assert torch.equal(image, EVERYTHING.of(raw, 0).image)
        assert (image != raw.image).any()


def test_each_checkpoint_notes_that_the_data_is_in_use(module):
    data = module()
    data.prepare()
    folder = data.train.cache.folder
    os.utime(folder, (0, 0))  # as trainer.prepare unused_days=30 would find it behind a training of months
    data.state_dict()
    assert time.time() - folder.stat().st_mtime < 600


def test_another_seed_another_order(module, plain):
    orders = [joined(batches(module(plain(), seed=seed), 3))[3] for seed in (0, 1)]
    assert (orders[0] != orders[1]).any()


def test_held_out_and_training_images_do_not_meet(module, plain):
    data = prepared(module(plain(400, per_concept=4), heldout=0.2, split_seed=0))
    assert len(data.train) + len(data.heldout) == 400
    concepts = [
        {record["concept"] for record in side.cache.records(side.indices)} for side in (data.train, data.heldout)
    ]
    assert not concepts[0] & concepts[1]
    assert 10 <= len(concepts[1]) <= 30 and len(data.heldout) == 80
    assert data.heldout.attributes[0]["number"] == data.heldout.indices[0]
    assert data.heldout.captions[-1] == f"caption {data.heldout.indices[-1]} 0"
    assert data.train.images.shape == (len(data.train), 8, 8, 3) and len(data.train.images) == len(data.train)
    assert (np.asarray(data.heldout.images) == data.heldout.images[:]).all()
    assert (data.heldout.images[2] == data.heldout.cache.images[data.heldout.indices[2]]).all()


def test_new_items_rarely_move_old_ones(tmp_path, plain):
    small, large = (open_cache(plain(n), 8, tmp_path) for n in (200, 220))
    heldout = [set(split(each, 0.2, 0)[1].tolist()) for each in (small, large)]
    assert list(map(len, heldout)) == [40, 44]
    assert len(heldout[0] ^ {i for i in heldout[1] if i < 200}) <= 4
    assert heldout[0] != set(split(small, 0.2, 1)[1].tolist())


class Uneven:
    """A cache's concepts: a few of many images and many of one, as in sets of clip art."""

    concepts = np.repeat(np.arange(500) * 7919 + 1, [400, 300, 200, 100, *[1] * 496])
    individuals = np.arange(len(concepts))
    heldout = np.full(len(concepts), -1, np.int8)


def test_the_share_held_out_is_of_images(plain):
    for seed in range(20):
        train, heldout = split(Uneven(), 0.1, seed)
        assert len(heldout) == 150 and len(train) + len(heldout) == 1496
        assert not set(Uneven.concepts[train]) & set(Uneven.concepts[heldout])
    shares = [len(split(Uneven(), 0.1, seed, by_images=False)[1]) / 1496 for seed in range(20)]
    assert max(shares) > 0.25  # where a tenth of the concepts was held out


@pytest.mark.parametrize("most", [5, 40, 120, 1000])
def test_held_out_images_are_bounded_and_of_many_concepts(most):
    uneven = Uneven()
    for seed in range(10):
        train, heldout = split(uneven, 0.1, seed, most=most)
        assert len(heldout) == min(most, 150) and not set(uneven.concepts[train]) & set(uneven.concepts[heldout])
        assert len(train) + len(heldout) == 1496
        largest = np.unique(uneven.concepts[heldout], return_counts=True)[1].max()
        assert largest == 1 if most < 1000 else largest <= 100


def test_few_small_concepts_are_filled_up_by_larger_ones():
    uneven = Uneven()
    uneven.concepts = np.repeat(np.arange(101), [1, *[11] * 100])
    uneven.heldout = np.full(len(uneven.concepts), -1, np.int8)
    assert 90 <= len(split(uneven, 0.5, 0, most=100)[1]) <= 100


def test_of_what_the_source_or_one_concept_holds_out_too_much_some_are_measured(tmp_path, plain):
    marked = [number % 2 == 0 for number in range(40)]
    cache = open_cache(plain(40, heldout=marked), 8, tmp_path)
    train, heldout = split(cache, 0.0, 0, most=7)
    assert len(train) == 20 and len(heldout) == 7 and not (heldout % 2).any() and (np.diff(heldout) > 0).all()
    large = Uneven()
    large.concepts, large.heldout = np.repeat([5, 6], [30, 40]), np.full(70, -1, np.int8)
    assert [len(side) for side in split(large, 0.1, 0, most=4)] == [40, 4]


def test_a_bound_is_a_number(module, plain):
    assert len(prepared(module(plain(100), heldout=0.3, split_seed=0, heldout_images=9)).heldout) == 9
    with pytest.raises(UserError, match="heldout_images=0: expected at least 1"):
        module(plain(), heldout_images=0)


def test_only_large_concepts_give_one_of_the_smallest(plain):
    uneven = Uneven()
    uneven.concepts, uneven.heldout = np.repeat([5, 6, 7], [30, 40, 30]), np.full(100, -1, np.int8)
    assert len(split(uneven, 0.1, 0)[1]) == 30
    uneven.individuals = np.arange(100)
    assert len(split(uneven, 0.1, 0, grouped=False)[1]) == 10


def test_runs_of_several_seeds_hold_out_the_same(module, plain):
    several = [prepared(module(plain(100), heldout=0.2, seed=seed, split_seed=0)) for seed in (0, 1, 2)]
    assert len({data.fingerprint for data in several}) == 1
    old = [prepared(module(plain(100), heldout=0.2, seed=seed)) for seed in (0, 1)]  # what checkpoints say from before
    assert old[0].fingerprint != old[1].fingerprint


def test_the_source_may_draw_the_split_itself(tmp_path, plain):
    marked = [True, False, True, *[False] * 7]
    train, heldout = split(open_cache(plain(10, heldout=marked), 8, tmp_path), 0.0, 0)
    assert heldout.tolist() == [0, 2] and len(train) == 8


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_few_concepts_still_go_both_ways(tmp_path, plain, fraction):
    cache = open_cache(plain(3), 8, tmp_path)
    for seed in range(10):
        assert all(len(side) for side in split(cache, fraction, seed))


def test_no_split_where_there_is_none(tmp_path, plain):
    one = open_cache(plain(6, per_concept=6), 8, tmp_path)
    assert [len(side) for side in split(one, 0.0, 0)] == [6, 0]
    with pytest.raises(UserError, match=r"set data\.heldout=0"):
        split(one, 0.1, 0)
    with pytest.raises(UserError, match="none is left to train on"):
        split(open_cache(plain(6, heldout=[True] * 6), 8, tmp_path), 0.0, 0)


@pytest.mark.parametrize(("num_items", "heldout", "n"), [(100, 0.1, 8), (100, 0.1, 64), (100, 0.0, 8), (5, 0.4, 32)])
def test_fixed_captions_mix_both_sides(module, plain, num_items, heldout, n):
    data = module(plain(num_items, num_captions=2), heldout=heldout)
    captions = data.fixed_captions(n)
    assert captions == module(plain(num_items, num_captions=2), heldout=heldout, batch_size=4).fixed_captions(n)
    assert len(set(captions)) == len(captions) == min(n, num_items)
    both = {"train": set(data.train.captions), "heldout": set(data.heldout.captions)}
    assert set(captions) <= both["train"] | both["heldout"]
    assert len(both["heldout"] & set(captions)) == min(len(data.heldout), max(n // 2, n - len(data.train)))


def test_credit_is_given_once(module, plain, capsys):
    source = plain()
    source.attribution = "pictures by somebody"
    data = module(source)
    data.prepare_data()
    data.setup("fit")
    assert capsys.readouterr().err.count("pictures by somebody") == 1
    assert source.loads == 50


@pytest.mark.parametrize("options", [{"heldout": 1.0}, {"heldout": -0.1}, {"batch_size": 0}, {"resolution": 0}])
def test_what_makes_no_sense_is_refused(module, options):
    with pytest.raises(UserError, match=rf"data\..*{next(iter(options))}="):
        module(**options)


def test_lightning_moves_the_batch_whole(module):
    from pytorch_lightning.utilities import move_data_to_device

    (batch,) = batches(module(), 1)
    moved = move_data_to_device(batch, torch.device("cpu"))
    assert_same(parts(batch), parts(moved))
    assert moved.image.is_contiguous(memory_format=torch.channels_last)


def test_the_fingerprint_is_of_the_data_not_of_its_place(module, plain, tmp_path):
    one = module(plain(50))
    assert module(plain(50), cache_dir=str(tmp_path / "elsewhere")).fingerprint == one.fingerprint
    others = [module(plain(51)), module(plain(50), heldout=0.2), module(plain(50), resolution=16)]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_captions_of_one_training_image_alone_are_unshared(module, plain):
    class Sharing(plain):
        def items(self):
            items = super().items()
            shared = {3: ("a cat",), 4: ("a cat", "a dog"), 5: ("a dog", "a bird"), 6: ("a bird",)}
            return [replace(item, captions=shared.get(i, item.captions)) for i, item in enumerate(items)]

    data = module(Sharing(8, heldout=[False] * 6 + [True] * 2))
    data.prepare()
    alone = zip(data.train.cache.captions, data.train.unshared.tolist(), strict=True)
    found = {caption for caption, is_alone in alone if is_alone}
    assert found == {"caption 0 0", "caption 1 0", "caption 2 0", "a bird"}
