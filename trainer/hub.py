"""A model of the Hugging Face hub by its id."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.errors import UserError
from trainer.progress import say

TIMEOUT_SECONDS = 5.0


def may_have(path: str | Path) -> bool:
    """Whether this is no path of this machine but can be an id, as me/model: outputs/typo is not, where outputs/ is."""
    owner, _, name = str(path).partition("/")
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", f"{owner}/{name}")) and not Path(owner).exists()


def snapshot(hub_id: str) -> Path:
    """Folder of a model: this machine's copy, else downloaded. UserError in seconds if the hub is out of reach."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # not here
    try:
        HfApi().model_info(hub_id, timeout=TIMEOUT_SECONDS)  # without the 23 s of retries that a download makes
        say(f"fetching {hub_id} from the Hugging Face hub, once")
        return Path(snapshot_download(hub_id))
    except Exception as error:  # the hub client lets its HTTP library's own errors through, and changes that library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{hub_id} does not exist on this machine and the Hugging Face hub gave none ({reason}): give a run "
            "folder, an export, or the id of a model within reach"
        ) from error
