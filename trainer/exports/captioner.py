"""A captioner as two programs: what it sees of a picture, and which piece follows those that are written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from trainer import noise
from trainer.errors import UserError
from trainer.exports import onnx
from trainer.exports.making import BATCHES, BOUND, describe_input, largest, patience, quiet
from trainer.exports.program import MAX_IMAGES, reason
from trainer.networks.captioner import line
from trainer.runs import checkpoint
from trainer.runs.export_files import CARD, INFER, SETTINGS, TOKENIZER
from trainer.size import Resolution, Size

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
CARD_TEXT = """# {name}

Captions of pictures. Trained for {kimg:,.1f} thousand images.

```bash
python {infer} photo.png        # onnxruntime, tokenizers and Pillow
```

- `{encoder}`: {inputs} -> `seen` {seen}. The image is in [-1, 1]{latent}.
- `{decoder}`: `seen`, and `ids` {ids}, the pieces so far behind {vocabulary} -> `next` (N, {vocabulary})
  float32, the log probability that a piece of `{tokenizer}` is the next.

They differ from PyTorch's eager mode by at most {difference:.1e}.
"""


class Seeing(nn.Module):
    """(image (N, 3, H, W)[, latent (N, Z)]) to what is seen (N, t, width)."""

    def __init__(self, captioner: Any):
        super().__init__()
        self.captioner = captioner

    def forward(self, image: Tensor, latent: Tensor | None = None) -> Tensor:
        seen: Tensor = self.captioner.seen(image)
        return seen if latent is None else self.captioner.with_latent(seen, latent)


class Writing(nn.Module):
    """(seen, ids (N, L) of the pieces so far) to log probabilities (N, V) of the next; -inf for what is never written.

    The blocks read all pieces anew each time: so a step has no state, and captions are short.
    """

    place: Tensor

    def __init__(self, captioner: Any):
        super().__init__()
        self.captioner = captioner
        channels = 2 * captioner.turn.shape[-1]
        captioner.turn = line(captioner.max_tokens + 1, channels)  # of one more: a slice of all is a case of its own
        count = len(captioner.written)
        numbers = captioner.numbers(torch.arange(captioner.vocabulary, device=captioner.known.device))
        self.register_buffer("place", numbers.where(captioner.known, count), persistent=False)

    def forward(self, seen: Tensor, ids: Tensor) -> Tensor:
        logits, _ = self.captioner.step(ids, self.captioner.past(seen))
        each = logits[:, -1].float().log_softmax(-1)
        return F.pad(each, (0, 1), value=-torch.inf)[:, self.place]


def write_programs(path: Path, out: Path) -> None:
    """OUT/encoder.onnx, decoder.onnx, infer.py and README.md of a captioning run whose weights are there already.

    UserError where a program cannot be made or differs from eager.
    """
    objective = checkpoint.load(path, "cpu")
    captioner, resolution = objective.captioner.eval(), objective.config["data"]["resolution"]
    with objective.ema_weights(), torch.no_grad():
        inputs = [of_images(captioner, resolution, count) for count in BATCHES]
        seen = [Seeing(captioner)(*each.values()) for each in inputs]
        steps = [{"seen": each, "ids": beginnings(captioner, *size)} for each, size in zip(
            seen, zip(BATCHES, (1, captioner.max_tokens, 5), strict=True), strict=True)]  # fmt: skip
        difference = max(
            made(Seeing(captioner), inputs, out / ENCODER, "seen", 0),
            made(Writing(captioner), steps, out / DECODER, "next", captioner.max_tokens),
        )
    shutil.copy(Path(__file__).with_name("caption.py"), out / INFER)
    shapes = {name: describe_input(name, each, False) for name, each in {**inputs[1], "seen": seen[1]}.items()}
    looks = shapes.pop("seen")
    ids = f"(N, L <= {captioner.max_tokens}) int64"
    tell(out, {ENCODER: shapes, DECODER: {"seen": looks, "ids": ids}}, difference)
    words = {
        "name": objective.config["name"], "kimg": objective.images_seen / 1000, "infer": INFER, "tokenizer": TOKENIZER,
        "encoder": ENCODER, "decoder": DECODER, "inputs": ", ".join(f"`{k}` {v}" for k, v in shapes.items()),
        "seen": looks, "ids": ids, "vocabulary": captioner.vocabulary, "difference": difference,
        "latent": ", and a standard normal `latent`, of which each is another caption" if "latent" in shapes else "",
    }  # fmt: skip
    (out / CARD).write_text(CARD_TEXT.format(**words), encoding="utf-8")


def of_images(captioner: Any, resolution: Resolution, count: int) -> dict[str, Tensor]:
    """Soft random pictures, and latents where there are any."""
    position = torch.arange(count)
    coarse = noise.normal(0, "export", position, 3 * 64).view(-1, 3, 8, 8)
    image = F.interpolate(coarse, size=Size.of(resolution), mode="bicubic").clamp(-1, 1)
    channels = captioner.latent_channels
    return {"image": image} | ({"latent": noise.normal(0, "caption", position, channels)} if channels else {})


def beginnings(captioner: Any, count: int, length: int) -> Tensor:
    """(count, length) ids of pieces that are written, behind the one that begins."""
    place = noise.bits(0, "export", torch.arange(count), length).remainder(len(captioner.written))
    ids = captioner.written[place]
    ids[:, 0] = captioner.vocabulary
    return ids


def made(program: nn.Module, examples: list[dict[str, Tensor]], path: Path, output: str, most: int) -> float:
    """Writes a program, opens it again, and says by how much it differs from eager at all of these inputs."""
    import onnxruntime

    lengths = {1: Dim("L", min=1, max=most)} if most else {}
    shapes = {key: {0: Dim("N", min=1, max=MAX_IMAGES), **(lengths if key == "ids" else {})} for key in examples[1]}
    program.eval().requires_grad_(False)
    try:
        with patience(f"export: writing {path.name}"), quiet():
            traced = torch.export.export(program, tuple(examples[1].values()), dynamic_shapes=shapes, strict=False)
            onnx.write(traced, path, output)
    except UserError:
        raise
    except Exception as error:  # exporters raise what they like
        raise UserError(f"{path.name} could not be made: {type(error).__name__}: {reason(error)}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = 0.0
    for each in examples:
        found = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in each.items()})[0])
        expected = program(*each.values())
        never = expected.isinf()
        if not torch.equal(found.isinf(), never):
            difference = torch.inf
        difference = max(difference, largest(found.masked_fill(never, 0), expected.masked_fill(never, 0)))
    if not difference <= BOUND:
        path.unlink()
        raise UserError(f"{path.name} differs from eager by {difference:.1e}, more than {BOUND:.1e}")
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; differs from eager by at most {difference:.1e}", flush=True)
    return difference


def tell(out: Path, programs: dict[str, Any], difference: float) -> None:
    """Adds the programs to config.json."""
    settings = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    settings["programs"] = {name: {"inputs": inputs, "difference": difference} for name, inputs in programs.items()}
    (out / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
