"""Data in a store are those of the same files on a disk, whoever reads them, and a store that fails is one line."""

import gc
import io
import multiprocessing
import re
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.store import Store
from trainer.data import preparing, remote
from trainer.data.cache import open_cache
from trainer.data.files import base_of, relative
from trainer.data.index import index_folder, open_index
from trainer.data.parquet import Parquet
from trainer.data.remote import RemoteFile, read_all
from trainer.data.webdataset import WebDataset
from trainer.errors import UserError
from trainer.runs import checkpoint

pytest.importorskip("aiohttp")


def pictures(count, start=0):
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 26, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG")
        yield number, content.getvalue()[: 150 if number % 13 == 4 else None]  # one in 13 is cut short


def tars(folder, kind="w", suffix="tar"):
    folder.mkdir(parents=True)
    for tar_number in range(3):
        with tarfile.open(folder / f"{tar_number}.{suffix}", kind) as tar:
            for number, content in pictures(13, 13 * tar_number):
                text = f"thing {number % 5}\nword {number}".encode()
                for name, data in ((f"{number:03}.jpg", content), (f"{number:03}.txt", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def packed(folder):
    tars(folder, "w:gz", "tar.gz")


def tables(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir(parents=True)
    for file in range(3):
        numbers, images = zip(*pictures(9, 9 * file), strict=True)
        columns = {"image": list(images), "text": [f"word {number}" for number in numbers]}
        parquet.write_table(pyarrow.table(columns), folder / f"{file}.parquet", row_group_size=4)


SMALL = [
    *("experiment=cgan", "data.resolution=16", "data.batch_size=8", "data.heldout=0.3"),
    *("text=scratch", "text.width=16", "text.network.num_layers=1", "text.encoder.vocabulary=256"),
    *("objective.generator.base_channels=8", "objective.generator.max_channels=8"),
    *("objective.discriminator.base_channels=8", "objective.discriminator.max_channels=8"),
    *("callbacks.evaluation=null", "callbacks.samples=null", "logger.wandb=null"),
]
KINDS = {"tar": (tars, WebDataset), "tar.gz": (packed, WebDataset), "parquet": (tables, Parquet)}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.02))
    server = Store(tmp_path / "data")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def s3():
    """url of an empty bucket, and a client that fills it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="pictures")
        yield client
    server.stop()


def upload(client, folder, prefix):
    for file in sorted(folder.iterdir()):
        client.upload_file(str(file), "pictures", f"{prefix}/{file.name}")


def assert_same(there, here, cache):
    for opened in (open_index, open_cache):
        found, expected = opened(there, 16, cache / "there"), opened(here, 16, cache / "here")
        assert (found.images[:] == expected.images[:]).all() and len(found.images) > 20
        assert [*found.captions] == [*expected.captions]
        everyone = range(len(expected.images))
        assert found.records(everyone) == expected.records(everyone)
        for name in ("concepts", "individuals", "heldout", "caption_ids", "caption_starts"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_server_has_is_what_the_disk_has(tmp_path, store, kind):
    make, source = KINDS[kind]
    make(tmp_path / "data")
    assert_same(source(f"{store.url}/{{0..2}}.{kind}"), source(str(tmp_path / "data")), tmp_path / "cache")


@pytest.mark.parametrize("path", ["shards", "shards/", "shards/*.tar", "shards/{0..2}.tar"])
def test_what_a_bucket_has_is_what_the_disk_has(tmp_path, s3, path):
    tars(tmp_path / "data")
    (tmp_path / "data" / "notes.txt").write_text("no tar")
    upload(s3, tmp_path / "data", "shards")
    assert_same(WebDataset(f"s3://pictures/{path}"), WebDataset(str(tmp_path / "data")), tmp_path / "cache")


def test_tables_in_a_bucket(tmp_path, s3):
    tables(tmp_path / "data")
    upload(s3, tmp_path / "data", "tables")
    assert_same(Parquet("s3://pictures/tables"), Parquet(str(tmp_path / "data")), tmp_path / "cache")


def test_a_store_without_asynchronous_requests_is_asked_for_no_more(tmp_path, monkeypatch):
    import fsspec

    asked = []

    class File(fsspec.spec.AbstractBufferedFile):
        def _fetch_range(self, start, end):
            asked.append(end - start)
            return (tmp_path / "data" / self.path).read_bytes()[start:end]

    class Plain(fsspec.AbstractFileSystem):
        """As hf:// is one."""

        protocol = "plain"

        def info(self, path, **_):
            return {"name": path, "size": (tmp_path / "data" / path).stat().st_size, "type": "file", "blob_id": "1"}

        def _open(self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **more):
            return File(self, path, mode, block_size or "default", autocommit, cache_options=cache_options, **more)

    fsspec.register_implementation("plain", Plain, clobber=True)
    tars(tmp_path / "data")
    here = open_cache(WebDataset(str(tmp_path / "data")), 16, tmp_path / "cache")
    there = open_index(WebDataset("plain://{0..2}.tar"), 16, tmp_path / "cache")
    assert asked == [(tmp_path / "data" / f"{number}.tar").stat().st_size for number in range(3)]
    asked.clear()
    monkeypatch.setattr(remote, "_GAP", 0)
    assert (there.images[[3, 20]] == here.images[[3, 20]]).all()
    assert sorted(asked) == sorted(there.images.places["size"][[3, 20]].tolist())


def test_a_folder_of_a_server(tmp_path, store):
    tars(tmp_path / "data" / "shards")
    found = WebDataset(f"{store.url}/shards/")
    assert found.shards() == [f"{store.url}/shards/{number}.tar" for number in range(3)]
    assert found.base == f"{store.url}/shards/"


def workers_read_as_the_disk_does(module, there, here):
    options = {"heldout": 0.2, "split_seed": 0, "resolution": 16, "batch_size": 12}
    decoded, plain = module(here, **options), module(there, decoded=False, num_workers=2, **options)
    plain.prepare()  # so that this process has connections when its workers are forked
    held = plain.heldout.indices[:3]
    pairs = zip(plain.train_dataloader(), decoded.train_dataloader(), strict=False)
    for one, other in islice(pairs, 8):
        assert torch.equal(one.image, other.image) and torch.equal(one.caption, other.caption)
        assert torch.equal(one.position, other.position)
        expected = decoded.train.cache.images[held]  # the parent's connections are its own still
        assert (plain.train.cache.images[held] == expected).all()
    assert plain.fingerprint == decoded.fingerprint


def test_workers_of_a_server(tmp_path, store, module):
    tars(tmp_path / "data")
    there, here = WebDataset(f"{store.url}/{{0..2}}.tar"), WebDataset(str(tmp_path / "data"))
    workers_read_as_the_disk_does(module, there, here)


def test_workers_of_a_bucket(tmp_path, s3, module):
    tars(tmp_path / "data")
    upload(s3, tmp_path / "data", "shards")
    workers_read_as_the_disk_does(module, WebDataset("s3://pictures/shards"), WebDataset(str(tmp_path / "data")))


def test_blocks_are_few_requests_for_the_same_stream(tmp_path, store, module):
    tars(tmp_path / "data")
    options = {"heldout": 0.2, "split_seed": 0, "resolution": 16, "batch_size": 12, "block_size": 4}
    here = module(WebDataset(str(tmp_path / "data")), **options)
    there = module(WebDataset(f"{store.url}/{{0..2}}.tar"), decoded=False, **options)
    for each in (here, there):
        each.start_at(36)
    for one, other in islice(zip(there.train_dataloader(), here.train_dataloader(), strict=False), 3):
        assert torch.equal(one.image, other.image) and torch.equal(one.caption, other.caption)
    stream = there.train_dataloader().dataset
    whole = stream[24]
    halves = []
    for stream.first, stream.size in ((0, 6), (6, 6)):
        halves.append(stream[24].image)
    assert torch.equal(torch.cat(halves), whole.image)
    with pytest.raises(UserError, match=r"^data.block_size=31: expected 1 to \d+, the images to train on"):
        module(WebDataset(str(tmp_path / "data")), **(options | {"block_size": 31})).train_dataloader()


@pytest.mark.parametrize(("block", "requests"), [(1, 12), (4, 3)])
def test_a_block_is_one_request(tmp_path, store, module, monkeypatch, block, requests):
    monkeypatch.setattr(remote, "_GAP", 2048)  # bytes: a caption, two headers, what fills up
    tars(tmp_path / "data")
    source = WebDataset(f"{store.url}/{{0..2}}.tar")
    made = module(source, resolution=16, batch_size=12, block_size=block, decoded=False)
    stream = made.train_dataloader().dataset
    store.asked()
    index = stream.indices[stream.order(np.arange(12), torch.arange(12))]
    files = stream.caches[0].images.places["file"][index].reshape(-1, block)
    stream[0]
    asked = store.asked()
    crossed = (files[:, 0] != files[:, -1]).sum()  # from one tar into the next
    assert requests / 2 < len(asked) <= requests + crossed + 2  # those that touch, and one that was cut short, left out
    assert sum(size for _, size in asked) < 12 * 3000


def test_processes_share_an_index(tmp_path, store):
    tars(tmp_path / "data")
    source = WebDataset(f"{store.url}/{{0..2}}.tar")
    folder = index_folder(source, tmp_path / "cache")
    preparing.build_together(source, folder, 2)
    expected = open_cache(WebDataset(str(tmp_path / "data")), 16, tmp_path / "cache")
    assert (open_index(source, 16, tmp_path / "cache").images[:] == expected.images[:]).all()
    assert len([1 for method, _, _ in store.log if method == "GET"]) == 3 + 3  # each tar was streamed once


def test_a_file_that_changes_is_seen(tmp_path, store, s3):
    tars(tmp_path / "data")
    upload(s3, tmp_path / "data", "shards")
    paths = (f"{store.url}/{{0..2}}.tar", "s3://pictures/shards")
    before = [WebDataset(path).fingerprint() for path in paths]
    assert [WebDataset(path).fingerprint() for path in paths] == before
    file = tmp_path / "data" / "1.tar"
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    upload(s3, tmp_path / "data", "shards")
    assert not {WebDataset(path).fingerprint() for path in paths} & {*before}


def test_a_failure_that_passes_is_told_and_costs_nothing(tmp_path, store, capsys, monkeypatch):
    tars(tmp_path / "data")
    found = open_index(WebDataset(f"{store.url}/{{0..2}}.tar"), 16, tmp_path / "cache")
    expected = found.images[[3, 20, 9]]
    monkeypatch.setattr(remote, "_SECONDS", 0.2)
    for failures in ([503], [None, "hang up", 500], [None, "cut short"], ["hang"]):
        capsys.readouterr()
        monkeypatch.setattr(remote, "_told", 0.0)
        store.failures[:] = failures
        assert (found.images[[3, 20, 9]] == expected).all()
        assert re.fullmatch(rf"{store.url}/\d.tar: .+; asked again in 0.01 s\n", capsys.readouterr().err), failures


def test_a_tar_is_streamed_through_failures(tmp_path, store, monkeypatch):
    tars(tmp_path / "data")
    monkeypatch.setattr(remote, "_BLOCK", 10_000)  # bytes
    source = WebDataset(f"{store.url}/0.tar")
    store.asked()
    store.failures[:] = [None, 503, None, None, 502, "cut short"]
    assert len([*source.of(source.shards()[0])]) == 13
    asked = store.asked()
    size = (tmp_path / "data" / "0.tar").stat().st_size
    assert [each for _, each in asked] == [10_000] * 5 + [size % 10_000]  # one again, which was cut short


def refused(path, message, source=WebDataset):
    with pytest.raises(UserError, match=message) as caught:
        found = source(path)
        [*found.items()]
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_line(tmp_path, store, s3):
    tars(tmp_path / "data")
    url = re.escape(store.url)
    refused(f"{store.url}/{{0..9}}.tar", rf"^{url}/\d.tar: there is no such file; data.source.path= says where")
    store.status = 403
    refused(f"{store.url}/0.tar", rf"^{url}/0.tar: no permission to read it \(403.*docs/data.md")
    store.status = 400
    refused(f"{store.url}/0.tar", rf"^{url}/0.tar: cannot be read: 400.*see that the store answers, and start again")
    store.status = 503
    refused(f"{store.url}/0.tar", rf"^{url}/0.tar: cannot be read: 503")
    refused("http://127.0.0.1:9/0.tar", r"^http://127.0.0.1:9/0.tar: cannot be read: .*Connect call failed")
    refused("s3://pictures/none.tar", r"^s3://pictures/none.tar: there is no such file")
    refused("s3://nobodys/none.tar", r"^s3://nobodys/none.tar: there is no such file")
    refused("s3://pictures/none*.tar", r"^data.source.path=s3://pictures/none\*.tar: nothing is called so")
    refused("gs://pictures/0.tar", r"^data.source.path=gs://pictures/0.tar: .*gcsfs")
    refused("foo://pictures/0.tar", r"^data.source.path=foo://pictures/0.tar: Protocol not known: foo; expected s3://")
    s3.put_object(Bucket="pictures", Key="other/notes.txt", Body=b"no tar")
    refused("s3://pictures/other", r"^data.source.path=s3://pictures/other: no .tar file in this folder")


def test_a_server_without_ranges_is_one_line(tmp_path, store):
    tars(tmp_path / "data")
    found = open_index(WebDataset(f"{store.url}/0.tar"), 16, tmp_path / "cache")
    store.ranges = False
    with pytest.raises(UserError, match=r"0.tar: its server sends whole files, no ranges of bytes; copy it"):
        found.images[1]
    (tmp_path / "data" / "0.tar").unlink()
    with pytest.raises(UserError, match=r"0.tar: there is no such file; data.source.path="):
        found.images[1]


def test_nobodys_bucket_needs_no_account(tmp_path, s3, monkeypatch):
    import fsspec

    tars(tmp_path / "data")
    upload(s3, tmp_path / "data", "shards")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    refused("s3://pictures/shards/0.tar", r"^s3://pictures/shards/0.tar: no permission to read it \(Unable to")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})  # as FSSPEC_S3='{"anon": true}' sets it at the start
    s3.put_object_acl(Bucket="pictures", Key="shards/0.tar", ACL="public-read")
    assert len([*WebDataset("s3://pictures/shards/0.tar").items()]) == 13


def test_ranges_that_nearly_touch_are_one_request(tmp_path, store):
    (tmp_path / "data").mkdir()
    content = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    (tmp_path / "data" / "some.bin").write_bytes(content)
    file = f"{store.url}/some.bin"
    wanted = [(file, 900_000, 900_500), (file, 100, 300), (file, 50, 350), (file, 120_000, 130_000), (file, 7, 7)]
    assert read_all(wanted) == [content[start:end] for _, start, end in wanted]
    assert sorted(store.asked()) == [("/some.bin", 500), ("/some.bin", 130_000 - 7)]


@pytest.mark.parametrize("ahead", [True, False])
def test_a_remote_file_reads_as_a_file(tmp_path, store, monkeypatch, ahead):
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    (tmp_path / "data").mkdir()
    content = np.random.default_rng(0).integers(0, 256, 4321, np.uint8).tobytes()
    (tmp_path / "data" / "some.bin").write_bytes(content)
    with RemoteFile(f"{store.url}/some.bin", ahead) as file:
        assert b"".join(iter(lambda: file.read(300), b"")) == content
        assert file.seek(-21, 2) == 4300 and file.read(100) == content[-21:] and file.read(1) == b""
        assert file.seek(10) == 10 and io.BufferedReader(file).read(2500) == content[10:2510]


def test_a_mistake_ends_a_command_in_one_line(tmp_path, store, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command("experiment=cgan", "data=webdataset", f"data.source.path={store.url}/9.tar")
    assert found.code == 2 and not found.out
    assert found.err == f"{store.url}/9.tar: there is no such file; data.source.path= says where your data lie\n"


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_where_its_data_are(tmp_path, store, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tars(tmp_path / "data")
    own = [*SMALL, "data=webdataset", "data.decoded=false", "data.cache_dir=cache"]
    assert command(*own, "data.source.path=data", "kimg=0.032", "run_dir=straight").code == 0
    there = f"data.source.path={store.url}/{{0..2}}.tar"
    assert command(*own, there, "kimg=0.016", "run_dir=run", "data.num_workers=2").code == 0
    result = command("resume=run", "kimg=0.032")
    assert result.code == 0, result.err
    straight, resumed = (checkpoint.read(checkpoint.newest(run)) for run in ("straight", "run"))
    assert resumed["DataModule"] == straight["DataModule"] and resumed["images_seen"] == straight["images_seen"] == 32
    for name, tensor in straight["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name


def test_names_in_a_store():
    files = ["s3://bucket/a//b/0.tar", "s3://bucket/a//bc/1.tar"]
    assert base_of(files) == "s3://bucket/a//" and relative(files[0], base_of(files)) == "b/0.tar"
    assert base_of(["https://one/0.tar", "https://other/0.tar"]) == "https://"


def fork(file, told):
    found = read_all([(file, 0, 100)])[0]
    gc.collect()
    told.put(found)


def test_a_fork_leaves_the_connections_of_its_parent(tmp_path, store, monkeypatch, capsys):
    monkeypatch.setattr(remote, "_SECONDS", 2.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "some.bin").write_bytes(bytes(range(250)))
    file, context = f"{store.url}/some.bin", multiprocessing.get_context("fork")
    for _ in range(2):
        assert read_all([(file, 0, 100)]) == [bytes(range(100))]
        told = context.SimpleQueue()
        process = context.Process(target=fork, args=(file, told))
        process.start()
        assert told.get() == bytes(range(100))
        process.join()
        assert process.exitcode == 0
    assert "asked again" not in capsys.readouterr().err
