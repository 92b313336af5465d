import hashlib
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainer.errors import UserError
from trainer.pretrained import weights
from trainer.pretrained.weights import find

CONTENT = bytes(range(256)) * 10_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """Serves CONTENT under good.pth, another under bad.pth, half of it under short.pth; `requests` counts."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path == "/none.pth":
                return self.send_error(404)
            body = CONTENT[::-1] if self.path == "/bad.pth" else CONTENT
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path == "/short.pth" else body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = requests
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cache" / "weights"


def left(folder):
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".lock"))


def test_fetched_once_and_verified_each_time(server, folder, capsys):
    file = find(f"{server.url}/good.pth", DIGEST, "backbone.path")
    assert file == folder / "good.pth" and file.read_bytes() == CONTENT and left(folder) == ["good.pth"]
    assert capsys.readouterr().err.startswith(f"fetching {server.url}/good.pth, 2 MiB, once, into {folder}\n")
    assert find(f"{server.url}/good.pth", DIGEST, "backbone.path") == file and server.requests == ["/good.pth"]
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"good.pth: sha256 \w+, expected {DIGEST[:12]}; delete it to have it fetched"):
        find(f"{server.url}/good.pth", DIGEST, "backbone.path")


@pytest.mark.parametrize(("name", "told"), [("bad", "sha256"), ("short", "1,280,000 of 2,560,000 bytes")])
def test_a_wrong_download_leaves_nothing(server, folder, name, told):
    with pytest.raises(UserError, match=rf"/{name}.pth gave {told}.*; try again, or put a copy at .*/{name}.pth"):
        find(f"{server.url}/{name}.pth", DIGEST, "backbone.path")
    assert left(folder) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.pth", "http://nowhere.invalid/a.pth"])
def test_without_network(url, folder):
    with pytest.raises(UserError) as told:
        find(url, DIGEST, "backbone.path")
    message = str(told.value)
    assert message.startswith(f"{url}: ") and "\n" not in message
    assert message.endswith(f"; put a copy at {folder}/a.pth or set backbone.path=/path/of/one")


def test_not_there_any_more(server):
    with pytest.raises(UserError, match=r"none.pth: Not Found; put a copy at"):
        find(f"{server.url}/none.pth", DIGEST, "backbone.path")


def test_a_given_path_asks_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    file = tmp_path / "mine.pth"
    file.write_bytes(CONTENT)
    assert find("http://nowhere.invalid/a.pth", DIGEST, "backbone.path", str(file)) == file
    with pytest.raises(UserError, match=r"backbone.path must be a copy of http://nowhere.invalid/a.pth"):
        find("http://nowhere.invalid/a.pth", "0" * 64, "backbone.path", str(file))
    with pytest.raises(UserError, match=r"backbone.path=.*none: no such file; expected a copy of http://nowhere"):
        find("http://nowhere.invalid/a.pth", DIGEST, "backbone.path", str(tmp_path / "none"))


def test_a_disk_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Not a directory; put a copy at"):
        find("http://nowhere.invalid/a.pth", DIGEST, "backbone.path")


def test_ranks_fetch_once(server):
    workers = [
        multiprocessing.get_context("spawn").Process(target=find, args=(f"{server.url}/good.pth", DIGEST, "path"))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0] and server.requests == ["/good.pth"]
