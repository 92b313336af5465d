"""What needs a lock works on file systems that have none, such as Lustre without `-o flock`."""

import errno
import fcntl
import multiprocessing

import numpy as np
import pytest
from PIL import Image

from trainer.data.cache import open_cache
from trainer.data.source import Item
from trainer.pretrained import weights
from trainer.process import locks
from trainer.runs import results
from trainer.sampling import shards
from trainer.text.cache import TextCache


class One:
    attribution = ""

    def fingerprint(self):
        return "one"

    def items(self):
        return [Item("a", ("a thing",), "a", lambda resolution: Image.new("RGB", (8, 8)))]


@pytest.fixture(params=[errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK])
def no_locks(request, monkeypatch):
    def refuse(*_):
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_everything_that_locks_works_without_locks(tmp_path):
    assert len(open_cache(One(), 8, tmp_path / "data").images) == 1
    results.add(tmp_path, [results.Figure("fid", 1.0, "lower", "a.ckpt", 1.0)])
    assert results.read(tmp_path)[0].value == 1.0
    (tmp_path / "text").mkdir()
    cache = TextCache(tmp_path / "text")
    with cache.one_writer():
        cache.add([(np.zeros(1, np.uint64), np.zeros((1, 2, 3), np.float16))], 2, 3)
    assert len(TextCache(tmp_path / "text").shards) == 1
    with shards.claim(tmp_path / "00001") as mine:
        assert mine
    with weights._one_at_a_time(tmp_path / "weights"):
        pass


def test_without_locks_a_cache_of_another_that_is_being_built_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "")))
    folder = open_cache(One(), 8, tmp_path).folder
    others = folder.with_name(f"{folder.name}.building-of-another-node")
    others.mkdir()
    folder.rename(tmp_path / "gone")
    open_cache(One(), 8, tmp_path)
    assert others.exists()


def test_a_cache_that_another_node_has_placed_meanwhile_is_taken(tmp_path, monkeypatch):
    """Over NFS a rename may meet a folder that this node did not see yet."""
    made = open_cache(One(), 8, tmp_path).folder
    hidden = made.rename(tmp_path / "hidden")

    def place_first(building, folder):
        hidden.rename(folder)
        place(building, folder)

    from trainer.data import cache

    place = cache.place
    monkeypatch.setattr(cache, "place", place_first)
    assert len(open_cache(One(), 8, tmp_path).images) == 1
    assert not list(tmp_path.glob("*.building*"))


def hold(path, taken, done):
    with open(path, "w") as file:
        locks.acquire(file)
        taken.set()
        done.wait(20)


def test_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    taken, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "lock", taken, done))
    other.start()
    assert taken.wait(20)
    with open(tmp_path / "lock", "w") as file:
        assert locks.acquire(file, wait=False) is False
        done.set()
        assert locks.acquire(file) is True
    other.join()
