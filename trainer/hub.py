"""A model of the Hugging Face hub by its id."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from trainer.errors import UserError
from trainer.progress import say

TIMEOUT_SECONDS = 5.0


def may_have(path: str | Path) -> bool:
    """Whether this is no path of this machine but can be an id, as me/model: outputs/typo is not, where outputs/ is."""
    owner, _, name = str(path).partition("/")
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", f"{owner}/{name}")) and not Path(owner).exists()


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

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        if is_complete(folder):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass  # not here; the hub has the last word on what is a valid id
    try:
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
