"""Pictures that are decoded from where they lie are those of the cache, in every respect, and in every place."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tarfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import index, joining, parts, split
from trainer.data.cache import open_cache
from trainer.data.folder import Folder
from trainer.data.index import open_index
from trainer.data.joining import numbered
from trainer.data.parquet import Parquet
from trainer.data.texts import Texts, write_texts
from trainer.data.webdataset import WebDataset
from trainer.errors import UserError
from trainer.runs import checkpoint
from trainer.text.scratch import HashTokenizer, LazyIds

SMALL = [
    *("experiment=cgan", "data.resolution=16", "data.batch_size=8", "data.heldout=0.3"),
    *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
    *("objective.generator.base_channels=8", "objective.generator.max_channels=8"),
    *("objective.discriminator.base_channels=8", "objective.discriminator.max_channels=8"),
    *("callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"),
]


def picture(number, size=(20, 26), kind="JPEG"):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)).save(content, kind)
    return content.getvalue()


def captions(number):
    return [f"thing {number % 5}", f"wörd {number}"]


def tars(folder, kind="w", suffix="tar", count=3):
    """13 pictures in each tar, of which one is cut short."""
    folder.mkdir()
    for tar_number in range(count):
        with tarfile.open(folder / f"{tar_number}.{suffix}", kind) as tar:
            for number in range(13 * tar_number, 13 * tar_number + 13):
                content = picture(number)[: 150 if number % 13 == 4 else None]
                text = "\n".join(captions(number)).encode()
                for name, data in ((f"{number:03}.jpg", content), (f"{number:03}.txt", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return WebDataset(str(folder))


def packed(folder):
    return tars(folder, "w:gz", "tar.gz")


def table(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir()
    for file in range(2):
        numbers = range(9 * file, 9 * file + 9)
        images = [picture(number) if number % 9 != 2 else b"no picture" for number in numbers]
        parquet.write_table(
            pyarrow.table({"image": images, "text": [captions(n) for n in numbers]}), folder / f"{file}.parquet"
        )
    return Parquet(str(folder))


def pairs(folder):
    folder.mkdir()
    lines = []
    for number in range(12):
        for name in (f"{number}.png", f"from {number}.png"):
            (folder / name).write_bytes(picture(number, kind="PNG"))
        names = {"file_name": f"{number}.png", "source": f"from {number}.png"}
        lines.append({**names, "text": captions(number), "more": number})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Folder(str(folder))


KINDS = {"tars": tars, "packed": packed, "table": table, "pairs": pairs}


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_reads_as_the_cache_does(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(parts, "_PER_PART", 5)
    source = KINDS[kind](tmp_path / "data")
    cache, found = (opened(source, 16, tmp_path / "cache") for opened in (open_cache, open_index))
    assert [*found.captions] == cache.captions and len(found.captions) > 5
    for name in ("concepts", "individuals", "heldout", "caption_ids", "caption_starts"):
        assert np.array_equal(getattr(found, name), getattr(cache, name)), name
    assert (found.images[:] == cache.images[:]).all() and found.images.shape == cache.images.shape
    everyone = range(len(cache.images))
    assert found.records(everyone) == cache.records(everyone)
    texts = [(each.folder / "skipped.txt").read_text() for each in (found, cache)]
    listed = [[line.partition("\t")[0] for line in text.splitlines()] for text in texts]
    assert listed[0] == listed[1] and len(listed[0]) == {"tars": 3, "packed": 3, "table": 2, "pairs": 0}[kind]
    if kind == "pairs":
        assert (found.sources.images[3:7] == cache.sources.images[3:7]).all()
        assert np.array_equal(found.sources.caption_ids, cache.sources.caption_ids)
    copy = pickle.loads(pickle.dumps(found))
    assert (copy.images[[5, 2, 5]] == cache.images[[5, 2, 5]]).all() and (copy.images[4] == cache.images[4]).all()
    assert found.images.places.dtype.itemsize == 16
    smaller, found = (opened(source, 8, tmp_path / "cache") for opened in (open_cache, open_index))
    assert (found.images[:] == smaller.images[:]).all()
    assert len([*(tmp_path / "cache").glob("*-index-*[0-9a-f]")]) == 1  # of all resolutions
    assert not [*(tmp_path / "cache").glob("*.parts"), *(tmp_path / "cache").glob("*.building*")]


def test_nothing_decoded_is_kept_of_tars(tmp_path):
    found = open_index(tars(tmp_path / "data"), 16, tmp_path / "cache")
    assert not [*found.folder.glob("*kept*"), *found.folder.glob("*images*")]
    assert found.images.places.nbytes == 16 * 36


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_stream_is_that_of_the_cache_on_any_number_of_ranks(tmp_path, module, num_workers):
    source = tars(tmp_path / "data")
    options = {"heldout": 0.2, "split_seed": 0, "resolution": 16, "batch_size": 12}
    decoded, plain = module(source, **options), module(source, decoded=False, num_workers=num_workers, **options)
    assert plain.fingerprint == decoded.fingerprint
    assert [*plain.heldout.captions] == decoded.heldout.captions
    assert plain.fixed_captions(8) == decoded.fixed_captions(8)
    assert plain.train.all_captions == decoded.train.all_captions
    assert plain.heldout.attributes == decoded.heldout.attributes
    plain.start_at(24)
    decoded.start_at(24)
    for one, other in islice(zip(plain.train_dataloader(), decoded.train_dataloader(), strict=False), 6):
        assert torch.equal(one.image, other.image) and torch.equal(one.caption, other.caption)
        assert torch.equal(one.condition.tokens, other.condition.tokens) and torch.equal(one.position, other.position)
    whole = plain.train_dataloader().dataset[36]
    for world in (1, 2, 3):
        ranks = []
        for rank in range(world):
            stream = plain.train_dataloader().dataset
            stream.first, stream.size = rank * 12 // world, 12 // world
            ranks.append(stream[36])
        assert torch.equal(torch.cat([batch.image for batch in ranks]), whole.image)
        assert torch.equal(torch.cat([batch.caption for batch in ranks]), whole.caption)


def test_a_run_goes_on_bit_for_bit_with_either_reader(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tars(tmp_path / "data")
    own = [*SMALL, "data=webdataset", "data.source.path=data", "data.cache_dir=cache"]
    assert command(*own, "kimg=0.032", "run_dir=straight").code == 0
    (tmp_path / "cache").rename("of_the_other")  # an index alone is enough for a resumed run to trust the folder
    assert command(*own, "kimg=0.016", "run_dir=run", "data.decoded=false", "data.num_workers=1").code == 0
    result = command("resume=run", "kimg=0.032", "data.num_workers=0")
    assert result.code == 0, result.err
    straight, resumed = (checkpoint.read(checkpoint.newest(run)) for run in ("straight", "run"))
    assert f"cache_dir: {tmp_path}/cache" in (tmp_path / "run/composed.yaml").read_text()
    assert resumed["config"]["data"]["decoded"] is False and resumed["DataModule"] == straight["DataModule"]
    assert resumed["images_seen"] == straight["images_seen"] == 32
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name


def test_data_that_moved_are_read_where_they_are(tmp_path):
    first = open_index(tars(tmp_path / "data"), 16, tmp_path / "cache")
    before = first.images[:]
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = open_index(WebDataset(str(tmp_path / "elsewhere")), 16, tmp_path / "cache")
    assert moved.folder == first.folder and (moved.images[:] == before).all()


def test_what_is_gone_or_changed_is_one_line(tmp_path):
    found = open_index(tars(tmp_path / "data"), 16, tmp_path / "cache")
    file = tmp_path / "data" / "1.tar"
    with open(file, "r+b") as content:
        content.seek(found.images.places["offset"][13])
        content.write(bytes(40))
    where = found.images.where(13)
    assert where == str(file)
    with pytest.raises(UserError, match=rf"^{file}: what was image 13 is no picture any more .*; put the file back"):
        found.images[13]
    file.unlink()
    with pytest.raises(UserError, match=rf"^{file}: No such file.*data\.source\.path="):
        open_index_again(found).images[14]


def open_index_again(found):
    return pickle.loads(pickle.dumps(found))


def test_a_source_without_files_is_refused(module, plain):
    with pytest.raises(UserError, match="data of plain lie in no files"):
        module(plain(), decoded=False).prepare()


def test_none_that_can_be_read(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(picture(0)[:100])
    (tmp_path / "data" / "a.txt").write_text("a")
    with pytest.raises(UserError, match="none of its 1 images can be read, the last by OSError"):
        open_index(Folder(str(tmp_path / "data")), 8, tmp_path / "cache")


@pytest.mark.parametrize("damage", ["places.npy", "captions.utf8"])
def test_a_damaged_index_says_what_to_delete(tmp_path, damage):
    source = tars(tmp_path / "data")
    folder = open_index(source, 16, tmp_path / "cache").folder
    os.truncate(folder / damage, 100)
    with pytest.raises(UserError, match=f"{folder}: damaged cache .*; delete this folder"):
        open_index(source, 16, tmp_path / "cache")


def slowly(folder, cache, log):
    honest = parts._look

    def look(item):
        with open(log, "a") as file:
            file.write(f"{item.key}\n")
        time.sleep(0.01)
        return honest(item)

    parts._look = look
    open_index(WebDataset(str(folder)), 16, cache)


def start(*arguments):
    process = multiprocessing.get_context("fork").Process(target=slowly, args=arguments)
    process.start()
    return process


def test_a_killed_one_goes_on_where_it_was(tmp_path):
    source = tars(tmp_path / "data", count=6)
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = start(tmp_path / "data", cache, log)
    while not [*cache.glob("*.parts/0000001")]:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = log.read_text().splitlines()
    assert 13 < len(before) < 6 * 13
    process = start(tmp_path / "data", cache, log)
    process.join()
    done = len([line for line in before if line.startswith(("0.tar", "1.tar"))])
    after = log.read_text().splitlines()[len(before) :]
    assert len(after) <= 6 * 13 - done and not [line for line in after if line.startswith("0.tar")]
    assert (open_index(source, 16, cache).images[:] == open_cache(source, 16, cache).images[:]).all()


def test_a_kill_while_parts_are_joined_costs_no_part(tmp_path, monkeypatch):
    source = tars(tmp_path / "data")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(joining, "_plane", die)
        open_index(source, 16, tmp_path / "cache")
    monkeypatch.setattr(parts, "_look", die)
    assert len(open_index(source, 16, tmp_path / "cache").images) == 36


def test_processes_share_the_work(tmp_path):
    source = tars(tmp_path / "data", count=6)
    log, cache = tmp_path / "log", tmp_path / "cache"
    processes = [start(tmp_path / "data", cache, log) for _ in range(3)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    looked = log.read_text().splitlines()
    assert len(looked) == len(set(looked)) == 6 * 13
    assert (open_index(source, 16, cache).images[:] == open_cache(source, 16, cache).images[:]).all()


@pytest.mark.parametrize("moment", [(Path, "mkdir"), (parts, "_claim"), (joining, "join")])
def test_another_is_ready_sooner(tmp_path, monkeypatch, moment):
    source, cache = tars(tmp_path / "data"), tmp_path / "cache"
    folder = open_index(source, 16, cache).folder
    of_another = folder.rename(tmp_path / "ready")
    owner, name = moment
    original = getattr(owner, name)

    def late(*args, **more):
        if of_another.exists() and (owner is not Path or args[0].name == "locks"):
            of_another.rename(folder)
            shutil.rmtree(folder.with_suffix(".parts"), ignore_errors=True)
        return original(*args, **more)

    monkeypatch.setattr(owner, name, late)
    index.build(source, folder)
    assert not of_another.exists() and [path for path in cache.iterdir() if path.is_dir()] == [folder]
    assert len(open_index(source, 16, cache).images) == 36


def test_without_locks_the_second_to_join_is_content(tmp_path, monkeypatch):
    source, cache = tars(tmp_path / "data"), tmp_path / "cache"
    monkeypatch.setattr("trainer.data.cache.acquire", lambda *_, **__: None)
    original = joining.join

    def slow(*args):
        original(*args)
        monkeypatch.setattr(joining, "join", original)
        index.build(source, index.index_folder(source, cache))

    monkeypatch.setattr(joining, "join", slow)
    assert len(open_index(source, 16, cache).images) == 36
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_without_locks_it_is_built_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "acquire", lambda *_, **__: None)
    assert len(open_index(tars(tmp_path / "data"), 16, tmp_path / "cache").images) == 36


def test_texts_are_those_of_a_list(tmp_path):
    given = ["", "a", "wörd\nline", "\udc80", "x" * 1000]
    write_texts(tmp_path, "some", given)
    texts = Texts(tmp_path, "some")
    assert [*texts] == given and texts[1:4] == given[1:4] and texts[-1] == given[-1] and len(texts) == 5
    assert [*pickle.loads(pickle.dumps(texts))] == given
    with pytest.raises(IndexError):
        texts[5]
    os.truncate(texts.file, 5)
    with pytest.raises(ValueError, match="cut short"):
        Texts(tmp_path, "some")


def test_numbers_are_those_of_a_dictionary():
    keys = np.random.default_rng(0).integers(0, 40, (300, 2)).astype(np.uint64) % 7
    first, number = numbered(keys)
    known = {}
    expected = [known.setdefault(tuple(key), len(known)) for key in keys.tolist()]
    assert number.tolist() == expected
    assert [tuple(key) for key in keys[first].tolist()] == [*known]


def test_too_many_captions_are_hashed_when_asked_for(monkeypatch):
    some = [f"word {i} thing" for i in range(10)]
    tokenizer = HashTokenizer(vocabulary=100, max_tokens=5)
    before = tokenizer.prepare(some)[np.array([3, 9])]
    monkeypatch.setattr("trainer.text.scratch.MANY", 9)
    lazy = tokenizer.prepare(some)
    assert isinstance(lazy, LazyIds) and len(lazy) == 10
    assert torch.equal(lazy[np.array([3, 9])].tokens, before.tokens)


def test_the_version_is_part_of_the_key(tmp_path, monkeypatch):
    source = tars(tmp_path / "data")
    folder = index.index_folder(source, tmp_path)
    monkeypatch.setattr(index, "_VERSION", 99)
    assert index.index_folder(source, tmp_path) != folder
    shutil.rmtree(tmp_path / "data")


def test_the_split_of_many_is_kept_and_mapped(tmp_path, monkeypatch):
    found = open_index(packed(tmp_path / "data"), 16, tmp_path / "cache")
    rules = [(0.3, seed, True, True, most) for seed, most in ((0, None), (1, None), (0, 4))]
    expected = [split.split(found, *rule) for rule in rules]
    monkeypatch.setattr(split, "_MANY", 1)
    for _ in range(2):  # made, then read
        for rule, (train, heldout) in zip(rules, expected, strict=True):
            kept = split.kept_split(found, *rule)
            assert (kept[0].tolist(), kept[1].tolist()) == (train.tolist(), heldout.tolist())
            assert not kept[0].flags.writeable  # of a file
        monkeypatch.setattr(split, "split", None)
    assert len([*found.folder.glob("train-*.npy")]) == 3


def test_the_split_of_many_in_a_folder_of_others(tmp_path, monkeypatch):
    found = open_index(packed(tmp_path / "data"), 16, tmp_path / "cache")
    monkeypatch.setattr(split, "_MANY", 1)

    def closed(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(np, "save", closed)
    train, heldout = split.kept_split(found, 0.3, 0, True, True, None)
    assert len(train) + len(heldout) == len(found.images)
    assert not [*found.folder.glob("train-*")]
