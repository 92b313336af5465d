"""index.html: a page that draws from a typed prompt in a browser, without a server; model and runtime are inside it."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.exports import onnx
from trainer.process import npm
from trainer.runs.export_files import PAGE, PROGRAMS, TOKENIZER, of_source

ORT, TOKENIZERS = "onnxruntime-web", "@huggingface/tokenizers"
# blob of the page -> (package of npm, the file in it)
PARTS = {
    "ort": (ORT, "dist/ort.wasm.bundle.min.mjs"),
    "wasm": (ORT, "dist/ort-wasm-simd-threaded.wasm"),
    "tokenizers": (TOKENIZERS, "dist/tokenizers.min.mjs"),
}


def parts() -> dict[str, Path]:
    """What of npm's packages goes into a page; UserError where they are not installed."""
    found = {}
    for blob, (package, name) in PARTS.items():
        found[blob] = npm.folder(package, "formats=web") / name
        if not found[blob].is_file():
            raise UserError(f"{found[blob]} does not exist: npm install {package}@latest")
    return found


def write(folder: Path, config: dict[str, Any], entry: dict[str, Any], prompts: list[str]) -> Path:
    """FOLDER/index.html of its model.onnx and tokenizer.json. entry: what config.json says of that program."""
    tokens = entry["inputs"]["input_ids"]
    padding = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["padding"]
    facts = {
        "stream": zlib.crc32(b"sample"),  # of the seeds' noise, as the sampler's
        "channels": entry["generator"]["latent_channels"],
        "size": entry["images"][1:],
        "tokens": int(re.findall(r"\d+", tokens)[0]),
        "open": "<=" in tokens,
        "pad": padding["pad_id"],
        "prompts": prompts,
    }
    files = {name: path.read_bytes() for name, path in (parts() | {"tokenizer": folder / TOKENIZER}).items()}
    files["model"] = onnx.optimized(folder / PROGRAMS["onnx"])
    fields = {
        "title": html.escape(config["name"]),
        "about": html.escape(f"Learned from {owner}." if (owner := of_source(config, "attribution")) else ""),
        "facts": json.dumps(facts).replace("<", "\\u003c"),
        "blobs": "\n".join(blob(name, content) for name, content in files.items()),
    }
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda field: fields[field[1]], template)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder / PAGE


def blob(name: str, content: bytes) -> str:
    """The bytes as gzip in base64, in an element that a browser does not run."""
    packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return f'<script type="application/gzip" id="{name}">{packed}</script>'
