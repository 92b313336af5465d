"""data.buckets: each batch of one size, pictures of about its proportions, the same stream on any number of ranks."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import buckets, split
from trainer.data.augment import Augment
from trainer.data.buckets import Buckets, assigned, divided
from trainer.data.build import fit
from trainer.data.folder import Folder
from trainer.data.index import open_index
from trainer.runs import checkpoint
from trainer.sample import main as sample
from trainer.size import Size

SIZES = [Size(16, 32), Size(24, 24), Size(32, 16)]
SIDES = [(40, 80), (48, 48), (40, 80), (66, 33), (40, 78), (50, 48), (40, 80), (40, 82), (44, 44), (80, 40)]
SMALL = [
    *("experiment=dcgan", "data.resolution=16", "data.batch_size=8", "data.heldout=0.2"),
    *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
    *("objective.generator.base_channels=8", "objective.generator.max_channels=8"),
    *("objective.discriminator.base_channels=8", "objective.discriminator.max_channels=8"),
    *("callbacks.evaluation=null", "logger.wandb=null"),
]


def noise(number, height, width):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def pictures(tmp_path):
    """60 PNGs: 30 wide ones, 18 squares and 12 tall ones, in turns."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(60):
        noise(number, *SIDES[number % 10]).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"thing {number}")
    return folder


def made(counts, batch_size):
    return Buckets([None] * len(counts), np.arange(sum(counts)), np.array(counts), batch_size)


# The order of the batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(64, 640, 100), (70, 71), (64,), (5, 64), (0, 130, 90)])
def test_all_pictures_are_seen_as_often_as_others_but_for_a_batch_of_each_size(counts):
    found, total = made(counts, 64), Counter()
    for batch in range(50 * sum(counts) // 64):
        bucket, place = found.at(3, 64 * batch)
        assert place % 64 == 0
        total[bucket] += 1
        passes = 64 * (batch + 1) / sum(counts)
        if passes == int(passes):
            for number, count in enumerate(counts):
                assert abs(64 * total[number] - passes * count) < 64 * 2
    for number, count in enumerate(counts):
        assert abs(64 * total[number] - 50 * count) < 64 * 2


def test_places_of_a_size_come_once_each_within_a_pass_and_its_order_is_new():
    found = made((320, 640, 192), 64)
    a_pass = 1152 // 64
    orders = []
    for number in range(3):
        batches = [found.at(0, 64 * (number * a_pass + batch)) for batch in range(a_pass)]
        for bucket, count in enumerate(found.counts):
            places = sorted(place for b, place in batches if b == bucket)
            assert places == [*range(number * count, (number + 1) * count, 64)]
        orders.append([bucket for bucket, _ in batches])
    assert orders[0] != orders[1] != orders[2] and len({*orders[0][:6]}) > 1
    assert [found.at(0, 64 * b) for b in range(9)] != [found.at(1, 64 * b) for b in range(9)]


def test_a_batch_is_known_by_its_position_alone():
    found = made((100, 333, 77), 16)
    there = {start: found.at(5, start) for start in range(0, 16 * 400, 16)}
    again = made((100, 333, 77), 16)
    assert all(again.at(5, start) == there[start] for start in reversed(there))
    assert found.at(5, 16 * 10**12)  # a stream has no end


# Which picture goes where -----------------------------------------------------------------------------------------


def test_a_picture_goes_to_the_nearest_proportions():
    sides = np.array([[100, 200], [100, 100], [300, 150], [100, 130], [100, 150], [1, 65535], [65535, 1]], np.uint16)
    assert assigned(sides, SIZES).tolist() == [0, 1, 2, 1, 0, 0, 2]


def test_what_is_fewer_than_a_batch_goes_to_the_nearest_of_the_others(capsys, monkeypatch):
    sides = np.array([[1, 2]] * 20 + [[1, 1]] * 3 + [[10, 13]] * 2 + [[2, 1]] * 9, np.uint16)
    members, counts = divided(sides, SIZES, 8)
    assert counts.tolist() == [25, 0, 9], "squares are as far from both: the first"
    assert sorted(members.tolist()) == [*range(34)]
    wide = members[: counts[0]].tolist()
    assert {*range(20), 23, 24} <= {*wide} and not {*range(25, 34)} & {*wide}
    told = "24 is nearest to 5 pictures, fewer than a batch of 8: they are cut to another size"
    assert told in capsys.readouterr().err
    monkeypatch.setattr(buckets, "_AT_ONCE", 7)
    assert [each.tolist() for each in divided(sides, SIZES, 8)] == [members.tolist(), counts.tolist()]
    _, alone = divided(sides[:3], SIZES, 8)
    assert alone.tolist() == [3, 0, 0], "one size is left, however few there are"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turned", [1, 6])
def test_sides_are_those_that_are_seen_however_it_is_decoded(tmp_path, kind, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise(0, 321, 1203).save(folder / "a.bin", kind, exif=exif)
    (folder / "a.bin").rename(folder / f"a.{kind.lower()}")
    (folder / f"a.{kind.lower()}").with_suffix(".txt").write_text("a thing")
    found = open_index(Folder(str(folder)), 16, tmp_path / "cache")
    assert found.sides.tolist() == [[321, 1203] if turned == 1 else [1203, 321]]


# The stream -------------------------------------------------------------------------------------------------------


def test_each_batch_is_of_one_size_and_whole_pictures_are_seen(pictures, module, capsys):
    options = {"resolution": 16, "batch_size": 12, "decoded": False, "heldout": 0.0}
    data = module(Folder(str(pictures)), buckets=[[*size] for size in SIZES], **options)
    batches = [*islice(data.train_dataloader(), 10)]  # two passes
    assert "pictures to train on: 30 at 16x32, 18 at 24, 12 at 32x16" in capsys.readouterr().err
    seen, shapes = Counter(), Counter()
    for batch in batches:
        size = Size(*batch.image.shape[2:])
        shapes[size] += 1
        for image, caption in zip(batch.image, batch.caption.tolist(), strict=True):
            number = int(data.train.cache.captions[caption].split()[1])
            file = pictures / f"{number:02}.png"
            with Image.open(file) as whole:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(fit(whole, size)))
                assert abs(np.log(whole.width / whole.height) - np.log(size.width / size.height)) < 0.1
            seen[number] += 1
    assert shapes == {SIZES[0]: 5, SIZES[1]: 3, SIZES[2]: 2}
    assert {*seen.values()} == {2}, "each of them once in each pass"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_workers_and_late_starts_see_the_same_stream(pictures, module, num_workers):
    options = {"resolution": 16, "batch_size": 12, "decoded": False, "block_size": 3}
    options["buckets"] = [[16, 32], 24, [32, 16]]
    whole = module(Folder(str(pictures)), **options).train_dataloader().dataset
    late = module(Folder(str(pictures)), num_workers=num_workers, **options)
    late.start_at(36)
    for start, batch in zip(range(36, 156, 12), late.train_dataloader(), strict=False):
        assert torch.equal(batch.image, whole[start].image) and torch.equal(batch.caption, whole[start].caption)
        assert batch.position.tolist() == [*range(start, start + 12)]
        for world in (2, 3):
            ranks = []
            for rank in range(world):
                stream = module(Folder(str(pictures)), **options).train_dataloader().dataset
                stream.first, stream.size = rank * 12 // world, 12 // world
                ranks.append(stream[start].image)
            assert torch.equal(torch.cat(ranks), batch.image)


def test_of_many_pictures_sizes_are_found_once(pictures, module, monkeypatch):
    options = {"resolution": 16, "batch_size": 12, "decoded": False, "buckets": [[16, 32], [32, 16]]}
    plain = module(Folder(str(pictures)), **options).train_dataloader().dataset[24]
    monkeypatch.setattr(split, "_MANY", 1)
    for _ in range(2):
        found = module(Folder(str(pictures)), **options).train_dataloader().dataset
        assert len([*found.caches[0].folder.glob("buckets-*.npy")]) == 1
        assert torch.equal(found[24].image, plain.image)
        monkeypatch.setattr(buckets, "divided", None)  # the second time it is read
    with pytest.raises(TypeError):  # of other sizes it is another one
        module(Folder(str(pictures)), **(options | {"buckets": [[16, 32], 24]})).train_dataloader()


def test_parts_anywhere_and_weights_hold_within_a_size(pictures, module):
    options = {"resolution": 16, "batch_size": 12, "decoded": False, "buckets": [[16, 32], [32, 16]]}
    data = module(Folder(str(pictures)), augment=Augment(random_crop=0.6), **options)
    batches = [*islice(data.train_dataloader(), 4)]
    assert {batch.image.shape[2:] for batch in batches} == {(16, 32), (32, 16)}
    data.prepare()
    weights = np.where(np.arange(60) % 10 == 3, 5.0, 1.0)  # one of two tall ones
    data._weights = lambda: weights
    seen = Counter()
    for batch in islice(data.train_dataloader(), 200):
        if batch.image.shape[2:] == (32, 16):
            seen.update(int(data.train.cache.captions[each].split()[1]) % 10 for each in batch.caption.tolist())
    tall = {number % 10: count for number, count in seen.items() if number in (3, 9)}
    assert 4 < tall[3] / tall[9] < 6.5


@pytest.mark.parametrize("paired", [True, False])
def test_sources_are_cut_as_their_images_are(tmp_path, module, paired):
    folder, lines = tmp_path / "pairs", []
    folder.mkdir()
    for number in range(24):
        height, width = [(40, 80), (80, 40)][number % 2]
        noise(number, height, width).save(folder / f"{number:02}.png")
        noise(100 + number, height, width).save(folder / f"from{number:02}.png")
        names = {"file_name": f"{number:02}.png", "source": f"from{number:02}.png"}
        lines.append(json.dumps({**names, "text": f"to {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    options = {"resolution": 16, "batch_size": 6, "decoded": False, "buckets": [[16, 32], [32, 16]], "paired": paired}
    data = module(Folder(str(folder)), **options)
    for batch in islice(data.train_dataloader(), 8):
        size = Size(*batch.image.shape[2:])
        assert batch.other.image.shape == batch.image.shape
        numbers = [int(data.train.cache.captions[each].split()[1]) for each in batch.caption.tolist()]
        own = [np.asarray(fit(noise(100 + number, *[(40, 80), (80, 40)][number % 2]), size)) for number in numbers]
        same = [np.array_equal(a.permute(1, 2, 0).numpy(), b) for a, b in zip(batch.other.image, own, strict=True)]
        assert all(same) == paired


# A run ------------------------------------------------------------------------------------------------------------


def test_a_run_on_sizes_goes_on_bit_for_bit_and_draws_any(tmp_path, pictures, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = [*SMALL, "data=folder", "data.source.path=pictures", "data.cache_dir=cache", "data.decoded=false"]
    own += ["data.buckets=[[16,32],[24,24],[32,16]]", "objective.schedule.kimg=1"]
    assert command(*own, "kimg=0.064", "run_dir=straight").code == 0
    assert command(*own, "kimg=0.032", "run_dir=run").code == 0
    result = command("resume=run", "kimg=0.064")
    assert result.code == 0, result.err
    straight, resumed = (checkpoint.read(checkpoint.newest(run)) for run in ("straight", "run"))
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name
    result = command("checkpoint=run", "prompts=[thing 3]", "seeds=0-1", "resolution=[16,32]", "out=wide", main=sample)
    assert result.code == 0, result.err
    with Image.open(tmp_path / "wide/thing-3_seed0000.png") as image:
        assert image.size == (32, 16)
        assert image.text["resolution"] == "16x32"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["data.decoded=true"], "data.buckets: set data.decoded=false"),
        (["data.buckets=[[16,33]]"], "data.buckets=[[16, 33]]: expected sizes as [[48,80],[64,64],[80,48]]"),
        (["data.buckets=[]"], "data.buckets=[]: expected sizes as"),
        (["data.buckets=[[16,16,16]]"], "resolution=[16, 16, 16]: expected a number of pixels, or two as"),
        (["captioning"], "objective Captioning knows one size alone; set data.buckets=null"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, pictures, command, monkeypatch, changes, line):
    monkeypatch.chdir(tmp_path)
    own = [each for each in SMALL if "experiment" not in each and "objective" not in each]
    name = next((each for each in changes if "=" not in each), "dcgan")
    own = [f"experiment={name}", *own, "data=folder", "data.source.path=pictures", "data.cache_dir=cache"]
    own += ["data.decoded=false", "data.buckets=[[16,32],[24,24]]", "kimg=0.016", "run_dir=run"]
    result = command(*own, *(each for each in changes if each != name))
    assert result.code == 2 and line in result.err, result.err
    assert "Traceback" not in result.err
