"""The model card: what the Hugging Face hub shows of an export, and how to load each of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from trainer.runs import results, run_folder
from trainer.runs.export_files import (
    INFER,
    PAGE,
    PICTURES,
    PIECES,
    PROGRAMS,
    TOKENIZER,
    TOKENS,
    draws_alone,
    example,
    of_source,
    task_of,
)
from trainer.size import Size

LICENSE = "unknown"  # the hub's word for it
LOADING = """## Use

```python
from trainer import load
load("THIS FOLDER OR ID")({prompt}, seeds=range(4){source}).grid()
```"""
CODE = {
    "model.onnx": """import onnxruntime
images = onnxruntime.InferenceSession("model.onnx").run(None, {{name: numpy_array, ...}})[0]""",
    "model.pt2": """import torch
images = torch.export.load("model.pt2").module()(*tensors)""",
    "model.aot.pt2": """import torch  # runs on {machine}
images = torch._inductor.aoti_load_package("model.aot.pt2")(*tensors)""",
}


def model_card(
    settings: dict[str, Any],
    source: Path | None = None,
    license: str | None = None,
    pictures: bool = False,
    page: bool = False,
) -> ModelCard:
    """Card of a model that config.json describes so. source: the checkpoint that it was taken from, for its figures.

    license: identifier of the weights' licence, as apache-2.0. pictures: whether a grid of samples is beside it.
    page: whether one that draws is.
    """
    config, kimg = settings["config"], settings["images_seen"] / 1000
    kind = "image-to-image" if task_of(config.get("objective")) else "text-to-image"
    front = ModelCardData(
        license=license or LICENSE,
        library_name="trainer",
        pipeline_tag=kind,
        tags=[kind, "trainer", "pytorch_model_hub_mixin", "model_hub_mixin"],
    )
    parts = [f"---\n{front.to_yaml()}\n---", f"# {plain(config['name'])}", about(config, kimg)]
    parts += [f"![samples]({PICTURES})"] if pictures else []
    source_of = ', source="photo.png"' if task_of(config.get("objective")) else ""
    parts += [LOADING.format(prompt=json.dumps(example(config), ensure_ascii=False), source=source_of)]
    parts += [f"`{PAGE}` draws in a browser, without a server."] if page else []
    parts += [*(program(name, each) for name, each in sorted(settings.get("programs", {}).items()))]
    parts += [table] if source and (table := results_table(source)) else []
    return ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=True)


def plain(value: Any) -> str:
    """One line of text, whatever Markdown or HTML a configuration has in it."""
    return re.sub(r"([\\`*\[\]<>|!#])", r"\\\1", " ".join(str(value).split()))


def about(config: dict[str, Any], kimg: float) -> str:
    """What it draws, and from what it learned that."""
    data = config.get("data") or {}
    source = data.get("source") or {}
    encoder = config["text"]["encoder"]
    of = "of captions" if "max_tokens" in encoder else "of classes" if example(config) else "without a prompt"
    lines = [f"Draws images {of}. Trained for {kimg:,.1f} thousand images."]
    if target := source.get("_target_"):
        given = plain(", ".join(f"{key} {value}" for key, value in source.items() if key != "_target_"))
        lines.append(f"Data: {target.rpartition('.')[2]} at {Size.of(data['resolution'])} pixels. {given}")
        if credit := of_source(config, "attribution"):
            lines.append(f"Credit: {credit}.")
    if "max_tokens" not in encoder:
        names = [plain(each) for each in encoder.get("classes") or ()]
        return "\n".join([*lines, *([f"Classes: {', '.join(names)}."] if names else [])])
    path = encoder.get("path") or ""
    own = path.startswith(("/", ".", "~"))  # a folder of this machine says nothing to others
    name = (not own and path) or encoder.get("name") or encoder["_target_"].rpartition(".")[2]
    name = "a text encoder inside" if encoder.get("_target_") in (TOKENS, PIECES) else name
    lines.append(f"Captions are read by {plain(name)}, at most {encoder['max_tokens']} tokens.")
    return "\n".join(lines)


def program(name: str, entry: dict[str, Any]) -> str:
    """How to load and call one of the programs."""
    shapes = "\n".join(f"- `{key}`: {text}" for key, text in entry["inputs"].items())
    note = f"Ids and mask are those of `{TOKENIZER}`, which pads and cuts them.\n" if entry["encoder"] else ""
    if "source" in entry["inputs"] and draws_alone(entry):
        note += "`source` is a picture with a last channel of -1 (of inpainting 1 in a hole), or none: 0 and 1 there.\n"
    if entry["encoder"] and name == PROGRAMS["onnx"] and draws_alone(entry):
        note += f"`python {INFER} 'a red apple' 0 image.png` draws with onnxruntime and tokenizers alone.\n"
    channels, height, width = entry["images"]
    return (
        f"### {name}\n\n```python\n{CODE[name].format(machine=entry['machine'])}\n```\n\n{shapes}\n"
        f"- returns `images`: (N, {channels}, {height}, {width}) float32 in [-1, 1]\n\n"
        f"{note}Differs from PyTorch's eager mode by at most {entry['difference']:.1e}."
    )


def results_table(source: Path) -> str:
    """The figures that trainer.evaluate left of this checkpoint, as a table; '' if there are none."""
    run = run_folder.of(source)
    found = {each.metric: each for each in results.read(run) if each.checkpoint == source.name}  # the newest of each
    rows = [
        f"| {plain(each.metric)} | {each.value:.5g} | {each.better} | {each.protocol.get('num_images', '')} |"
        for each in found.values()
    ]
    head = ["## Figures", "", "| metric | value | better | samples |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""
