"""A model of the Hugging Face hub by its id."""

from __future__ import annotations

import difflib
import os
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from trainer.errors import UserError
from trainer.process.progress import say

PREFIX = "hf:"
TIMEOUT_SECONDS = 5.0
PROBE_SECONDS = 2.0


def may_have(path: str | Path) -> bool:
    """Whether this is no path of this machine but can be an id, as me/model; hf:me/model is one beyond doubt.

    outputs/typo is not, where outputs/ is, nor is ouputs/typo, which is nearly there.
    """
    text = str(path)
    if text.startswith(PREFIX):
        return True
    owner, _, name = text.partition("/")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", f"{owner}/{name}") or Path(owner).exists() or name.endswith(".ckpt"):
        return False
    return not difflib.get_close_matches(owner, ["outputs", *(each.name for each in Path().iterdir())], cutoff=0.7)


def is_reachable() -> bool:
    """Whether anything answers at the hub's address, within two seconds; True where that cannot be told.

    A client that is to work offline says so by itself, and a proxy has the connection.
    """
    from huggingface_hub import constants

    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in proxies):
        return True
    address = urlsplit(constants.ENDPOINT)
    found: list[bool] = []

    def connect() -> None:
        with suppress(OSError):
            socket.create_connection((address.hostname, address.port or 443), TIMEOUT_SECONDS).close()
            found.append(True)

    thread = threading.Thread(target=connect, daemon=True)  # for the look-up of a name knows no time limit
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(found)


def find(
    path: str,
    key: str,
    needed: str,
    example: str,
    remedy: str,
    is_complete: Callable[[Path], bool],
    wanted: Callable[[list[str]], list[str]],
) -> Path:
    """Local folder of `path`, a folder or a hub id; the hub is asked only for what is not on this machine.

    key: what stands before the path in messages, as `text.encoder.path=`. needed: the files, in words. example: of an
    id. The rest as in `snapshot`. UserError if there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not is_complete(folder):
            raise UserError(f"{key}{path}: expected {needed} in it")
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(f"{key}{path}: no such folder; give a folder or a hub id like {example}")
    return snapshot(path, remedy, is_complete, wanted)


def snapshot(
    hub_id: str,
    remedy: str,
    is_complete: Callable[[Path], bool] = Path.is_dir,
    wanted: Callable[[list[str]], list[str]] | None = None,
) -> Path:
    """Folder of a model: this machine's copy if that is complete, else downloaded, once.

    wanted: names of all files at its top -> patterns of those to fetch, instead of all. UserError, with what to do
    about it, within seconds if the hub is out of reach.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    hub_id = hub_id.removeprefix(PREFIX)
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        if is_complete(folder):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # not here; the hub has the last word on what is a valid id
    try:
        if not is_reachable():
            raise ConnectionError("it does not answer")
        # one request without the client's 23 s of retries tells whether there is anything to wait for
        files = HfApi().model_info(hub_id, timeout=TIMEOUT_SECONDS).siblings or []
        say(f"fetching {hub_id} from the Hugging Face hub, once")
        if not sys.stderr.isatty():
            disable_progress_bars()
        if wanted is None:
            return Path(snapshot_download(hub_id))
        patterns = wanted([file.rfilename for file in files if "/" not in file.rfilename])
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # the hub client lets its HTTP library's own errors through, and changes that library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{hub_id} is not on this machine and the Hugging Face hub gave none ({reason}): {remedy}"
        ) from error
