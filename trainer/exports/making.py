"""Programs of a generator: written, opened again as a user would, and compared with eager before they count."""

from __future__ import annotations

import io
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from importlib import import_module
from itertools import chain
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.export import ExportedProgram

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports.program import WITHOUT_TOKENS, FromFeatures, FromIds, exported, for_onnx, inputs, reason
from trainer.exports.text import included
from trainer.networks.worded import WordedGenerator
from trainer.process.progress import EVERY_SECONDS, say
from trainer.runs.export_files import PROGRAMS, TOKENIZER, task_of
from trainer.tasks.examples import examples
from trainer.text.inside import Encoder
from trainer.text.pretrained import Pretrained

BOUND = 1e-4  # of a value in [-1, 1]: 0.013 of the 255 grey levels, so a rounded image differs by at most one
# Features that lie between two float16 numbers may be rounded to the other: half a grey level. A `cgan` of 80 kimg
# differs by 1.1e-3, one of 1 kimg by 4e-5.
BOUND_WITH_TEXT = 1 / 255
# Activations of 8 bits that lie between two steps, too, and what follows from them: one grey level in the root mean
# square of an image. A `cgan` of 2 kimg differs by half of one, and by four where it is furthest off; read from
# features it differs by 1e-6.
BOUND_OF_8_BITS = 2 / 255
BATCHES = (1, 3, 16)
CAPTIONS = (
    "a cat",
    "a small red circle",
    "a large blue square at the top left above a small green triangle on a white background",
    "face",
    "two people who walk along the street in the rain, a dog beside them",
)

Batches = list[tuple[Tensor, Condition]]


class Programs:
    """Makes the programs of one generator in a folder.

    generator: (latent, Condition) -> images, on the device for which AOTInductor compiles. config: of its run.
    with_text: the frozen text encoder inside, token ids in; a text encoder that trained with the generator always is.
    `entries`: what config.json has to say of each program that came out. `failed`: a line for each that did not.
    """

    def __init__(self, generator: nn.Module, config: dict[str, Any], folder: Path, with_text: bool):
        self.generator, self.config, self.folder = generator, config, folder
        self.entries: dict[str, dict[str, Any]] = {}
        self.failed: list[str] = []
        device = next(chain(generator.parameters(), generator.buffers())).device
        encoder = instantiate(config["text"]["encoder"], _convert_="all")
        self.references = batches(generator, encoder, device)
        features = self.references[0][1].tokens.is_floating_point()
        self.encoder_node: dict[str, Any] | None = None
        self.batches, program = self.references, FromFeatures(generator) if features else FromIds(generator)
        if with_text and features:
            if not isinstance(encoder, Pretrained):
                raise UserError("include_text=true: this model reads no text; leave it out")
            text, self.encoder_node = included(encoder, folder)
            tokens = instantiate(self.encoder_node | {"path": str(folder / TOKENIZER)})
            self.batches = batches(generator, tokens, device)
            program = FromIds(WordedGenerator(text.to(device), generator))
        self.open_tokens = isinstance(encoder, Pretrained)  # a text encoder of our own has a position for each
        self.example = inputs(*self.batches[1])
        try:
            with patience("export: tracing the generator"), quiet():
                self.program = program.eval().requires_grad_(False)
                self.exported = exported(self.program, self.example, self.open_tokens)
        except Exception as error:  # as whatever an operator raises that knows no open number of images
            kind = type(generator).__name__
            raise UserError(f"{kind} makes no program ({reason(error)}): take formats=[safetensors]") from error
        with torch.no_grad():
            self.expected = [generator(*batch) for batch in self.references]

    @property
    def has_8_bits(self) -> bool:
        state = self.generator.state_dict().values()
        return any(each.element_size() == 1 and each.dtype != torch.bool for each in state)

    @property
    def bound(self) -> float:
        """How much a program may differ from eager, of values in [-1, 1]."""
        if self.has_8_bits:
            return BOUND_OF_8_BITS
        rounds = self.encoder_node or any(isinstance(each, Encoder) for each in self.generator.modules())
        return BOUND_WITH_TEXT if rounds else BOUND

    @cached_property
    def for_onnx(self) -> ExportedProgram:
        return exported(for_onnx(self.program), self.example, self.open_tokens)

    def make(self, format_name: str) -> None:
        """One more of the files; its entry or its line in `failed`."""
        path = self.folder / PROGRAMS[format_name]
        module = import_module(f"trainer.exports.{format_name}")
        node = {"_target_": f"{module.__name__}.Generator", "latent_channels": self.generator.latent_channels}
        node |= task_of(self.config["objective"])
        began = time.monotonic()
        try:
            with patience(f"export: writing {path.name}"), quiet():
                self._write(module.write, path)
            runtime = instantiate(node | {"path": str(path)})
            with torch.no_grad():
                drawn = [runtime(*batch) for batch in self.batches]
            pairs = [*zip(drawn, self.expected, strict=True)]
            difference = max(largest(*pair) for pair in pairs)
            kind = " in the root mean square of an image" if self.has_8_bits else ""
            off = max(root_mean_square(*pair) for pair in pairs) if self.has_8_bits else difference
            if not off <= self.bound:
                raise UserError(f"differs from eager by {off:.1e}{kind}, more than {self.bound:.1e}")
        except UserError as error:
            path.unlink(missing_ok=True)
            self.failed.append(f"{path.name}: {error}")
            return
        self.entries[path.name] = {
            "generator": node,
            "encoder": self.encoder_node,
            "inputs": {name: describe_input(name, each, self.open_tokens) for name, each in self.example.items()},
            "images": list(self.expected[0].shape[1:]),
            "difference": difference,
            "machine": machine(self.expected[0].device),
        }
        size, seconds = path.stat().st_size / 2**20, time.monotonic() - began
        least = f"differs from eager by at most {difference:.1e} at batch sizes {', '.join(map(str, BATCHES))}"
        print(f"{path}: {size:.1f} MiB in {seconds:.0f} s; {least}", flush=True)

    def _write(self, write: Callable[[ExportedProgram, Path], None], path: Path) -> None:
        try:
            write(self.for_onnx if path.name == PROGRAMS["onnx"] else self.exported, path)
        except UserError:
            raise
        except Exception as error:  # compilers and exporters raise what they like
            raise UserError(f"could not be made: {type(error).__name__}: {reason(error)}") from error


def machine(device: torch.device) -> str:
    """What AOTInductor compiled for."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} processors with {torch.backends.cpu.get_cpu_capability()}"


def batches(generator: Any, encoder: Any, device: torch.device) -> Batches:
    """Latents and conditions of captions of different lengths, each encoded alone as the sampler does."""
    rows = [encoder([caption]) for caption in getattr(encoder, "classes", None) or CAPTIONS]
    found = []
    for size in BATCHES:
        condition = Condition.cat(rows * size).rows(slice(size))
        condition = condition._replace(source=examples(generator, torch.arange(size)))
        latent = noise.normal(0, "export", torch.arange(size), generator.latent_channels)
        found.append((latent.to(device), condition.to(device)))
    return found


def largest(images: Tensor, expected: Tensor) -> float:
    """Largest difference; not a number where shapes differ or an image has one that is none."""
    return (images - expected).abs().max().item() if images.shape == expected.shape else math.nan


def root_mean_square(images: Tensor, expected: Tensor) -> float:
    """Of the image that differs most; not a number where `largest` is none."""
    if math.isnan(largest(images, expected)):
        return math.nan
    return (images - expected).square().mean((1, 2, 3)).sqrt().max().item()


def describe_input(name: str, example: Tensor, open_tokens: bool) -> str:
    """Shape and type of an input, with N images and at most so many tokens."""
    most = "L <= " if open_tokens else ""
    tokens = [] if name in WITHOUT_TOKENS else [f"{most}{example.shape[1]}"]
    sizes = ["N", *tokens, *map(str, example.shape[1 + len(tokens) :])]
    return f"({', '.join(sizes)}) {str(example.dtype).removeprefix('torch.')}"


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and compilers tell developers how they work."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def patience(work: str) -> Iterator[None]:
    """Says what takes so long, if it does."""
    timer = Timer(EVERY_SECONDS, say, [f"{work}, this may take a minute or two"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
