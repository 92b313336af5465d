"""The files of an export, and a program among them as a configuration that draws with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate

from trainer.errors import UserError
from trainer.pretrained.weights import sha256
from trainer.process.progress import say
from trainer.runs import allowlist, moved, run_folder

WEIGHTS, SETTINGS, TOKENIZER, CARD, PICTURES = (
    "model.safetensors", "config.json", "tokenizer.json", "README.md", "samples.png"
)  # fmt: skip
PROGRAMS = {"onnx": "model.onnx", "aot_inductor": "model.aot.pt2", "torch_export": "model.pt2"}  # format -> file
MODELS = (WEIGHTS, *PROGRAMS.values())  # files that draw
TRAINED = "trainer.exports.generator.TrainedGenerator"
DRAWING = "trainer.exports.drawing.Drawing"  # the same without the hub
INFER, PAGE = "infer.py", "index.html"  # beside a model.onnx that reads ids
PRETRAINED = "trainer.text.pretrained.Pretrained"
TOKENS = "trainer.text.pieces.Tokens"
PIECES = "trainer.text.pieces.Pieces"


def example(config: dict[str, Any]) -> str:
    """A prompt for a model of this configuration; '' for one that is drawn without."""
    encoder = config["text"]["encoder"]
    if str(encoder.get("_target_")).endswith(".Nothing"):
        return ""
    return str(next(iter(encoder.get("classes") or ()), of_source(config, "example") or "a red apple"))


def of_source(config: dict[str, Any], name: str) -> str:
    """`attribution` or `example` of the data that a model learned from; '' where nothing is known of it."""
    target = ((config.get("data") or {}).get("source") or {}).get("_target_")
    return str(getattr(get_class(target), name, "")) if target else ""


def tokenizer_of(model: Path) -> Path:
    """tokenizer.json beside a model, or in the folder above, where models side by side have one for all."""
    above = model.parent.with_name(TOKENIZER)
    return model.with_name(TOKENIZER) if model.with_name(TOKENIZER).is_file() or not above.is_file() else above


def is_program(path: Path) -> bool:
    return path.name in PROGRAMS.values()


def of_drawing(config: dict[str, Any]) -> dict[str, Any]:
    """What who only draws reads of a configuration."""
    found: dict[str, Any] = {key: config[key] for key in ("name", "text", "objective", "runtime") if key in config}
    data = config.get("data")
    if isinstance(data, dict) and data.get("buckets"):
        found["data"] = {"buckets": data["buckets"]}
    if isinstance(found.get("objective"), dict) and found["objective"].get("_target_") == TRAINED:
        found["objective"] = found["objective"] | {"_target_": DRAWING}
    return found


def settings(path: Path, draws_only: bool = False) -> dict[str, Any]:
    """config.json beside a model: images_seen, global_step, config. Of a program, `config.objective` draws with it.

    draws_only: what that needs of the configuration. UserError where that names what it may not.
    """
    saved = json.loads(path.with_name(SETTINGS).read_text(encoding="utf-8"))
    moved.require_known(saved, path.with_name(SETTINGS))
    if draws_only and isinstance(saved["config"], dict):
        saved["config"] = of_drawing(saved["config"])
    saved["config"] = allowlist.check_config(saved["config"], path.with_name(SETTINGS))
    if (encoder := (saved["config"].get("text") or {}).get("encoder") or {}).get("_target_") == TOKENS:
        encoder["path"] = str(tokenizer_of(path))
    if not is_program(path):
        return saved
    program = saved.get("programs", {}).get(path.name)
    if program is None:
        raise UserError(f"{path}: {path.with_name(SETTINGS)} does not know it; export it again with trainer.export")
    config = {key: value for key, value in saved["config"].items() if key != "runtime"}  # passes for PyTorch's eager
    kind = next(each for each, name in PROGRAMS.items() if name == path.name)
    latent_channels = int(program["generator"]["latent_channels"])
    generator = {"_target_": f"trainer.exports.{kind}.Generator", "latent_channels": latent_channels, "path": str(path)}
    config["objective"] = {"_target_": TRAINED, "generator": generator | task_of(saved["config"]["objective"])}
    if program["encoder"]:
        max_tokens = int(program["encoder"]["max_tokens"])
        encoder = {"_target_": TOKENS, "max_tokens": max_tokens, "path": str(tokenizer_of(path))}
        config["text"] = config["text"] | {"encoder": encoder}
    return saved | {"config": config}


def task_of(node: Any) -> dict[str, Any]:
    """`task` and `resolution` of the network, of an image task, that a configuration builds; {} of text to image."""
    if not isinstance(node, dict):
        return {}
    if "task" in node:
        return {key: node[key] for key in ("task", "resolution")}
    return next(filter(None, map(task_of, node.values())), {})


def draws_alone(entry: dict[str, Any]) -> bool:
    """Whether a program, by its entry in config.json, draws from captions alone, though it may have a source."""
    return "source" not in entry["inputs"] or bool(entry["generator"]["task"].get("source_dropout"))


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as others may read it: absolute paths are cut to their last name, that of a run where it is one.

    The folder of a text encoder stays, as nothing can be drawn without.
    """
    found = {key: _cut(node) for key, node in config.items()}
    path = (config.get("text") or {}).get("encoder", {}).get("path")
    if isinstance(path, str) and path.startswith(("/", "~")):
        found["text"]["encoder"]["path"] = path
        if Path(path).name != TOKENIZER:  # which `write_settings` takes along
            remedy = "which others lack: take a hub id, or include_text=true"
            say(f"export: {SETTINGS} names text.encoder.path={path}, {remedy}")
    return found


def _cut(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: None if key == "cache_dir" else _cut(each) for key, each in node.items()}
    if isinstance(node, list):
        return [_cut(each) for each in node]
    if isinstance(node, str) and node.startswith(("/", "~")):
        path = Path(node)
        is_model = path.suffix == ".ckpt" or path.name in MODELS
        return (run_folder.of(path) if is_model else path).name
    return node


def merge_programs(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """`new` with the programs that an earlier export of the same model left in the folder."""
    try:
        old = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return new
    same = all(old.get(key) == new[key] for key in ("config", "images_seen", "global_step"))
    return {**old, **new, "programs": old.get("programs", {}) | new.get("programs", {})} if same else new


def with_tokenizer(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration as it stands in `folder`: a model that reads ids has its tokenizer.json there from now on."""
    encoder = (config.get("text") or {}).get("encoder") or {}
    target, path = encoder.get("_target_"), encoder.get("path")
    if target == PIECES:
        instantiate(encoder).save(folder / TOKENIZER)
    elif target == TOKENS and path and Path(path).resolve() != (folder / TOKENIZER).resolve():
        shutil.copy(path, folder / TOKENIZER)
    elif target != TOKENS:
        return config
    return config | {"text": config["text"] | {"encoder": {"_target_": TOKENS, "max_tokens": encoder["max_tokens"]}}}


def write_settings(folder: Path, new: dict[str, Any]) -> None:
    """config.json, last of all: it has the checksums of the models beside it."""
    known = {name: sha256(folder / name) for name in MODELS if (folder / name).is_file()}
    config = with_tokenizer(new["config"], folder)
    content = {**new, "config": config, "version": moved.VERSION, "sha256": known}
    _replace(folder / SETTINGS, (json.dumps(content, indent=1) + "\n").encode())


def write_weights(folder: Path, weights: dict[str, Any]) -> None:
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    _replace(folder / WEIGHTS, save(whole))  # save_file would let nobody else read it


def _replace(path: Path, content: bytes) -> None:
    """The whole new file or the whole old one, whenever this is stopped."""
    writing = path.with_name(f".{path.name}.tmp")
    writing.write_bytes(content)
    writing.replace(path)
