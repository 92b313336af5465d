"""Backbones that are Hugging Face models: a folder or a hub id, the checksum of the weights, the frozen model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.pretrained import hub
from trainer.pretrained.weights import sha256
from trainer.text.models import quiet_transformers

IMAGES_AT_ONCE = 32


def load(path: str, model_class: str) -> tuple[Any, str, Path]:
    """(model, sha256 of its weights, its folder) of a folder or hub id; float32, frozen, on the CPU.

    The hub is asked only for what is not on this machine. UserError: out of reach, of another kind, incomplete.
    """
    import transformers

    folder = _find(path)
    try:
        digest = _digest(folder)
        with quiet_transformers():
            found = transformers.AutoConfig.from_pretrained(folder).model_type
            loader = getattr(transformers, model_class)
            if found != loader.config_class.model_type:
                raise UserError(f"{path}: a {found} model, expected {loader.config_class.model_type}")
            model, report = loader.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True)
    except UserError:
        raise
    except Exception as error:  # safetensors raises exceptions of its own for broken files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be loaded as {model_class}: {reason}") from error
    if unset := {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}:  # would stay random
        raise UserError(f"{path}: lacks {len(unset)} weights, as {min(unset)}: give a complete model")
    return model.float().eval().requires_grad_(False), digest, folder


def _find(path: str) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not _weights(folder):
            raise UserError(f"{path}: expected config.json and *.safetensors in it")
        return folder
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise UserError(f"{path}: no such folder; give one or a hub id like facebook/dinov2-base")
    remedy = "check id and network, or give a local folder in its place"
    return hub.snapshot(path, remedy, lambda folder: bool(_weights(folder)), _wanted)


def _weights(folder: Path) -> list[Path]:
    """Those that transformers would load; empty where the configuration or all weights are missing."""
    safe = sorted(folder.glob("model*.safetensors"))
    return (safe or sorted(folder.glob("pytorch_model*.bin"))) if (folder / "config.json").is_file() else []


def _digest(folder: Path) -> str:
    """sha256 of the weight file; of all their digests, one a line, where there are several."""
    digests = [sha256(file) for file in _weights(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _wanted(names: list[str]) -> list[str]:
    is_safe = any(name.startswith("model") and name.endswith(".safetensors") for name in names)
    return ["*.json", "*.txt", "model*.safetensors" if is_safe else "pytorch_model*.bin"]
