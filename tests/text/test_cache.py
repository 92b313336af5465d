"""The disk cache of text features: encode once, share, survive damage."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.errors import UserError
from trainer.process import progress
from trainer.text import cache, pretrained
from trainer.text.pretrained import Pretrained

CAPTIONS = ["a red apple", "the big blue car and a small green square", "apple", "a red car", "the red car on a car"]


@pytest.fixture
def encoder(tmp_path: Path, bert_folder: Path) -> Callable[[], Pretrained]:
    return lambda: Pretrained("bert", 16, 12, path=str(bert_folder), cache_dir=str(tmp_path))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of captions in each batch that a model was given."""
    sizes: list[int] = []
    encode = Pretrained._encode

    def counted(self, *given, **options):
        for which, features in encode(self, *given, **options):
            sizes.append(len(which))
            yield which, features

    monkeypatch.setattr(Pretrained, "_encode", counted)
    return sizes


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("the model was loaded"))

    return forbid


def shards(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "text").glob("*/shard-*"))


def test_each_distinct_caption_is_encoded_once_ever(encoder, encoded, no_model, tmp_path):
    first = encoder().prepare([*CAPTIONS, *CAPTIONS[:2]])
    assert sum(encoded) == len(CAPTIONS)
    more = encoder().prepare(["the circle", *reversed(CAPTIONS)])
    assert sum(encoded) == len(CAPTIONS) + 1
    assert len(shards(tmp_path)) == 2
    no_model()
    again = encoder().prepare(CAPTIONS)
    for mine, theirs in ((first, np.arange(5)), (more, np.arange(5, 0, -1))):
        same = mine[np.arange(5)] if mine is first else mine[theirs]
        assert torch.equal(same.tokens, again[np.arange(5)].tokens)
        assert torch.equal(same.pooled, again[np.arange(5)].pooled)
        assert torch.equal(same.mask, again[np.arange(5)].mask)


def test_calls_agree_with_the_cache_in_any_company_and_write_nothing(encoder, tmp_path, no_model):
    alone = [encoder()([caption]) for caption in CAPTIONS[:3]]
    together = encoder()([*CAPTIONS, CAPTIONS[0]])
    assert not shards(tmp_path)
    features = encoder().prepare(CAPTIONS[:4])
    partly = encoder()(CAPTIONS)  # four cached, one not
    assert len(shards(tmp_path)) == 1
    for i in range(3):
        cached = features[np.array([i])].float()
        for other in (alone[i], together.rows([i]), partly.rows([i])):
            torch.testing.assert_close(other.tokens, cached.tokens, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(other.pooled, cached.pooled, atol=2e-3, rtol=2e-3)
    assert torch.equal(together.tokens[0], together.tokens[5])
    no_model()
    assert torch.equal(encoder()(CAPTIONS[:4]).tokens, features[np.arange(4)].float().tokens)


def test_no_captions(encoder):
    assert len(encoder().prepare([])) == 0
    assert encoder()([]).tokens.shape == (0, 12, 16)


def test_many_shards_in_one_preparation(encoder, monkeypatch, tmp_path, encoded):
    whole = encoder()(CAPTIONS)
    encoded.clear()
    monkeypatch.setattr(pretrained, "CAPTIONS_PER_SHARD", 2)
    features = encoder().prepare(CAPTIONS)
    assert len(shards(tmp_path)) == 3
    assert sum(encoded) == 5
    assert torch.equal(features[np.array([4, 0])].mask, whole.rows([4, 0]).mask)
    read = features[np.array([4, 0])].float()
    torch.testing.assert_close(read.tokens, whole.rows([4, 0]).tokens, atol=2e-3, rtol=2e-3)


def test_features_pickle_as_paths_and_map_the_same_files(encoder):
    captions = [f"a red apple on {i} car and {i} square" for i in range(500)]
    features = encoder().prepare(captions)
    content = sum(file.stat().st_size for file in features.shards[0].iterdir())
    data = pickle.dumps(features)
    assert len(data) < content / 5
    index = np.array([3, 499, 3])
    assert torch.equal(pickle.loads(data)[index].tokens, features[index].tokens)


def test_only_real_tokens_are_stored(encoder, tmp_path):
    encoder().prepare(["apple", "a red apple"])
    rows = np.load(shards(tmp_path)[0] / "rows.npy", mmap_mode="r")
    assert rows.shape == (1 + 3 + 1 + 5, 16)
    assert rows.dtype == np.float16


def test_other_weights_or_lengths_never_meet(encoder, tmp_path, save_model, encoded):
    mine = encoder().prepare(CAPTIONS)
    other_folder = save_model("bert", tmp_path / "model", seed=1)
    other = Pretrained("bert", 16, 12, path=str(other_folder), cache_dir=str(tmp_path)).prepare(CAPTIONS)
    assert (mine[np.arange(5)].pooled - other[np.arange(5)].pooled).abs().max() > 0.01
    Pretrained("bert", 16, 11, path=str(other_folder), cache_dir=str(tmp_path)).prepare(CAPTIONS)
    assert sum(encoded) == 15
    save_model("bert", other_folder, seed=2)  # changed in place
    Pretrained("bert", 16, 11, path=str(other_folder), cache_dir=str(tmp_path)).prepare(CAPTIONS)
    assert sum(encoded) == 20


def test_width_that_differs_from_the_cache_is_a_user_error_without_the_model(encoder, tmp_path, bert_folder, no_model):
    encoder().prepare(CAPTIONS)
    no_model()
    with pytest.raises(UserError, match=r"text\.width=17, but .* has width 16: set text\.width=16"):
        Pretrained("bert", 17, 12, path=str(bert_folder), cache_dir=str(tmp_path)).prepare(CAPTIONS)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing", "foreign"])
def test_damaged_shards_are_rebuilt_with_one_warning(encoder, tmp_path, capfd, encoded, damage):
    good = encoder().prepare(CAPTIONS)[np.arange(5)]
    file = shards(tmp_path)[0] / {"missing": "keys.npy", "foreign": "offsets.npy"}.get(damage, "rows.npy")
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 10)
    elif damage == "garbage":
        file.write_bytes(b"x" * 1000)
    elif damage == "missing":
        file.unlink()
    else:
        np.save(file, np.arange(3))
    capfd.readouterr()
    again = encoder().prepare(CAPTIONS)[np.arange(5)]
    assert torch.equal(again.tokens, good.tokens)
    assert sum(encoded) == 10
    assert len(shards(tmp_path)) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "is unreadable" in lines[0]


def test_killed_in_the_middle_keeps_whole_shards_and_clears_the_rest(encoder, tmp_path, monkeypatch, encoded):
    monkeypatch.setattr(pretrained, "CAPTIONS_PER_SHARD", 2)
    add = cache.TextCache.add

    def add_once(self, *args):
        add(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache.TextCache, "add", add_once)
        with pytest.raises(KeyboardInterrupt):
            encoder().prepare(CAPTIONS)
    folder = shards(tmp_path)[0].parent
    young, old = folder / "writing-young", folder / "writing-old"
    for left in (young, old):
        left.mkdir()
    os.utime(old, (time.time() - 2 * cache.STALE_SECONDS,) * 2)
    assert len(encoder().prepare(CAPTIONS)) == 5
    assert sum(encoded) == 5
    assert young.exists()  # may be at work
    assert not old.exists()


def test_two_at_once_encode_once(encoder, tmp_path, monkeypatch, encoded, capfd):
    add = cache.TextCache.add

    def slow_add(self, *args):
        time.sleep(0.3)
        add(self, *args)

    monkeypatch.setattr(cache.TextCache, "add", slow_add)
    results = []
    threads = [threading.Thread(target=lambda: results.append(encoder().prepare(CAPTIONS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(encoded) == 5
    assert len(shards(tmp_path)) == 1
    assert len(results) == 3
    assert "waiting for another process" in capfd.readouterr().err


def test_full_disk_is_a_user_error_and_leaves_nothing_half_written(encoder, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(
        UserError, match=r"No space left on device; free space .*set text\.encoder\.cache_dir="
    ) as caught:
        encoder().prepare(CAPTIONS)
    assert str(tmp_path) in str(caught.value)
    assert not [path for path in (tmp_path / "text").rglob("*") if path.name.startswith(("writing", "shard"))]


def test_unwritable_folder_is_a_user_error_but_reads_and_samples(encoder, tmp_path, bert_folder):
    (tmp_path / "file").write_text("")
    unwritable = Pretrained("bert", 16, 12, path=str(bert_folder), cache_dir=str(tmp_path / "file"))
    assert unwritable(CAPTIONS).tokens.shape == (5, 12, 16)
    with pytest.raises(UserError, match=r"Not a directory.*text\.encoder\.cache_dir="):
        unwritable.prepare(CAPTIONS)


def test_disk_that_loses_what_was_written_is_a_user_error(encoder, monkeypatch):
    monkeypatch.setattr(cache.TextCache, "add", lambda *_: None)
    with pytest.raises(UserError, match="lost what it was given"):
        encoder().prepare(CAPTIONS)


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path))
    assert cache.cache_root(None) == tmp_path / "text"
    assert cache.cache_root("/x") == Path("/x/text")
    monkeypatch.delenv("TRAINER_CACHE")
    assert cache.cache_root(None) == Path.home() / ".cache" / "trainer" / "text"


def test_progress_speaks_only_when_it_takes_long(encoder, monkeypatch, capfd):
    encoder().prepare(CAPTIONS[:2])
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    encoder().prepare(CAPTIONS)
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("text: encoded 3 of 3 captions, ")


def test_new_processes_read_without_transformers(encoder, tmp_path, bert_folder):
    wanted = encoder().prepare(CAPTIONS)[np.arange(5)]
    code = (
        "import json, sys, numpy as np\n"
        "from trainer.text.pretrained import Pretrained\n"
        f"e = Pretrained('bert', 16, 12, path={str(bert_folder)!r}, cache_dir={str(tmp_path)!r})\n"
        f"pooled = e.prepare({CAPTIONS!r})[np.arange(5)].pooled\n"
        "print(json.dumps(['transformers' in sys.modules, pooled.tolist()]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    imported, pooled = json.loads(out.stdout)
    assert not imported
    assert torch.equal(torch.tensor(pooled), wanted.pooled)


@pytest.mark.parametrize("threads", [1, 2])
def test_features_of_a_caption_do_not_depend_on_its_company(encoder, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        many = [f"{a} {b} {c}" for a in ("a", "the") for b in ("red", "big blue", "small") for c in ("apple", "car")]
        expected = dict(zip(many, zip(*encoder()(many)[:3], strict=True), strict=True))
        for chosen in ([many[3]], many[:2], many[::-1], [many[0], many[7], many[2]], many * 3):
            for caption, row in zip(chosen, zip(*encoder()(chosen)[:3], strict=True), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(row, expected[caption], strict=True))
    finally:
        torch.set_num_threads(before)


def forwards(encoder: Pretrained, captions: list[str]) -> list[tuple[int, ...]]:
    """Shapes of ids that the model of an encoder sees for captions that it has not cached."""
    seen: list[tuple[int, ...]] = []
    model = encoder._loaded.model
    forward = model.forward
    model.forward = lambda input_ids: seen.append(tuple(input_ids.shape)) or forward(input_ids=input_ids)
    try:
        encoder(captions)
    finally:
        model.forward = forward
    return seen


NINE = [f"{word} car" for word in ("red", "green", "blue", "big", "small", "a", "the", "and", "on")]


@pytest.mark.parametrize(
    ("alone", "expected"), [(True, [(1, 3), (8, 4), (1, 4)]), (False, [(8, 3), (8, 4), (8, 4)])], ids=["alone", "not"]
)
def test_captions_of_a_call_are_encoded_in_batches_of_one_size_and_few_alone(encoder, monkeypatch, alone, expected):
    encoder = encoder()
    encoder(["a"])
    monkeypatch.setattr(encoder, "_same_alone", lambda caption, size: alone)
    assert forwards(encoder, [*NINE, "car"]) == expected
    assert forwards(encoder, NINE[:4]) == [(8, 4)], "four together take less time than one by one"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_caption_is_encoded_alone_where_it_rounds_as_among_others(encoder, threads):
    encoder, before = encoder(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        encoder(["a"])
        tried = forwards(encoder, ["a red car"])
        assert tried[:2] == [(1, 5), (8, 5)], "tried once for a length"
        same = encoder._alone[5, threads]
        assert forwards(encoder, ["a blue car"]) == [(1, 5) if same else (8, 5)]
    finally:
        torch.set_num_threads(before)


def test_where_one_alone_rounds_otherwise_it_is_encoded_among_copies(encoder):
    encoder = encoder()
    encoder(["a"])
    encoder._alone.clear()
    features = encoder._features
    encoder._features = lambda ids: features(ids) * (1 + 1e-3 * (len(ids) == 1))
    condition = encoder(["a red car"])
    encoder._features = features
    assert encoder._alone == {(5, torch.get_num_threads()): False}
    encoder._alone.clear()
    assert torch.equal(condition.tokens, encoder(["a red car", "a blue car", "a big car", "a small car"]).rows([0])[0])
