"""A server of files over HTTP that gives ranges and tags, keeps what it was asked for, and fails when told to."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Store(ThreadingHTTPServer):
    """Serves the folder `root` at `url`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.url, self.ranges = root, f"http://127.0.0.1:{self.server_port}", True
        self.status: int | None = None  # of every answer
        self.failures: list[Any] = []  # of the next answers to GET
        self.log: list[tuple[str, str, int]] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def note(self, method: str, path: str, size: int) -> None:
        self.log.append((method, path, size))

    def asked(self) -> list[tuple[str, int]]:
        """(path, bytes) of each GET since the last call."""
        found = [(path, size) for method, path, size in self.log if method == "GET"]
        self.log.clear()
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a head and a body wait 40 ms for one another
    server: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        store, file = self.server, self.server.root / self.path.strip("/")
        failure = store.status or (store.failures.pop(0) if store.failures and self.command == "GET" else None)
        if failure in ("hang up", "hang"):
            time.sleep(failure == "hang")
            self.close_connection = True
        elif isinstance(failure, int) or not file.exists():
            self.answer(failure or 404, b"")
        elif file.is_dir():
            names = sorted(each.name for each in file.iterdir())
            self.answer(200, "".join(f'<a href="{name}">{name}</a>' for name in names).encode(), "text/html")
        else:
            found = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if store.ranges else None
            with open(file, "rb") as content:
                status = file.stat()
                start, end = (int(found[1]), int(found[2]) + 1) if found else (0, status.st_size)
                content.seek(start)
                part = content.read(end - start)
            store.note(self.command, self.path, len(part))
            size = len(part)
            if failure == "cut short":
                part, self.close_connection = part[: size // 2], True
            self.answer(206 if found else 200, part, tag=f'"{status.st_mtime_ns}-{status.st_size}"', size=size)

    def answer(self, status: int, body: bytes, kind: str = "application/x-tar", tag: str = "", size: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size or len(body)))
        self.send_header("Content-Type", kind)
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
