"""As many images at a time in onnxruntime as it draws sooner than PyTorch; the network draws larger batches."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports import onnx
from trainer.exports.making import patience, quiet
from trainer.exports.program import MAX_IMAGES, FromFeatures, FromIds, arrays, exported, for_onnx, inputs, reason
from trainer.process import caches
from trainer.process.distribution import install
from trainer.process.progress import say
from trainer.sampling.batch_invariance import GREY_LEVEL, unpatched

ON_CPU = ("cpu", "openvino")  # providers


def onnxruntime(network: nn.Module, max_batch: int | None = None, provider: str | None = None) -> nn.Module:
    """Batches of up to `max_batch` images are drawn in onnxruntime, larger ones as before. Changes `network`.

    max_batch: up to 4096; from 16 on an image is the same in any company to a grey level only, but after
    `Sampler.keep_bits`, as in bulk. None for 1, in the place of which
    trainer.compress puts what it finds to be quicker on its machine.
    provider: "cpu", or "openvino" of the package onnxruntime-openvino; where that is missing cpu draws, and a line says
    so. None for cpu, in the place of which trainer.compress puts the quicker one.
    The first call writes an ONNX program into $TRAINER_CACHE, for good, and compares its images with the network's:
    where they differ by more than a grey level, where onnxruntime is not installed, or on a GPU, the network draws all,
    and a line says so. Weights and their names stay. UserError for a prior of codes, whose steps would be written out
    one by one, and for another max_batch or provider.
    """
    if max_batch is not None and not 1 <= max_batch <= MAX_IMAGES:
        raise UserError(f"passes.onnxruntime.max_batch={max_batch}: expected 1 to {MAX_IMAGES}")
    if provider not in (None, *ON_CPU):
        raise UserError(f"passes.onnxruntime.provider={provider}: expected {' or '.join(ON_CPU)}")
    if getattr(network, "chooses", False):
        raise UserError("onnxruntime: a prior of codes takes minutes to export: leave it out")
    device = next(network.parameters()).device
    missing = next((each for each in onnx.PACKAGES if importlib.util.find_spec(each) is None), None)
    if device.type != "cpu" or missing:
        why = f"{missing} is not installed; {install('export')}" if missing else f"this network is on {device}"
        say(f"onnxruntime: {why}: PyTorch draws")
        return network
    if provider and provider not in (there := onnx.providers()):
        say(f"onnxruntime: that of this machine has no {provider}, only {', '.join(there)}: cpu draws")
        provider = None
    network._compiled_call_impl = SmallBatches(network, max_batch or 1, provider or "cpu")
    return network


class SmallBatches:
    """What calling `network` becomes: (latent, condition) -> images (N, 3, H, W) in [-1, 1].

    It stands where PyTorch keeps a compiled call, which copies of a network do not take with them.
    """

    def __init__(self, network: nn.Module, max_batch: int, provider: str = "cpu", pixels: bool = True):
        self.network, self.max_batch, self.provider, self.with_pixels = network, max_batch, provider, pixels
        call = network._compiled_call_impl
        self.otherwise: Any = call or network._call_impl
        self.of_any_size = getattr(call, "of_any_size", call is None)  # else what is not small is compiled for each
        self.programs: dict[int, onnx.Generator | None] = {}  # by number of tokens
        self.longest = 0  # tokens of the longest captions for which one program takes any number of them
        self._read: tuple[Condition, onnx.Generator | None, dict[str, Any]] | None = None  # the last: seeds may differ

    def __call__(self, latent: Tensor, condition: Condition) -> Tensor:
        if torch.compiler.is_exporting():
            traced: Tensor = self.network._call_impl(latent, condition)
            return traced
        fits = len(latent) <= self.max_batch and drawn_as_exported(self.network)
        images = self.small(latent, condition) if fits else None
        drawn: Tensor = self.otherwise(latent, condition) if images is None else images
        return drawn

    def small(self, latent: Tensor, condition: Condition, output: str = "images") -> Tensor | None:
        """Of a batch of any size, drawn in onnxruntime; None where that cannot be."""
        read = self._read
        if read is None or read[0] is not condition:
            program, length = self.program(latent, condition)
            self._read = read = condition, program, arrays(latent, condition, length)
        _, program, given = read
        return None if program is None else torch.from_numpy(program.arrays(given | {"latent": latent.numpy()}, output))

    def program(self, latent: Tensor, condition: Condition) -> tuple[onnx.Generator | None, int]:
        """What draws it, and of how many tokens; None where nothing can."""
        length = condition.mask.shape[1]
        if length > self.longest and length not in self.programs:
            with torch.inference_mode(False), torch.no_grad(), unpatched(self.network):
                self.programs[length] = self._learn(latent.clone(), condition.map(torch.clone))
        if length > self.longest:
            return self.programs[length], length
        return self.programs[self.longest], condition.longest  # open in tokens, it takes the time of those that it sees

    def pixels(self, latent: Tensor, condition: Condition) -> Tensor | None:
        """The same as uint8, to the nearest level."""
        return self.small(latent, condition, "pixels")

    @property
    def draws(self) -> bool:
        """Whether a program was found for captions seen so far."""
        return any(self.programs.values())

    def _learn(self, latent: Tensor, condition: Condition) -> onnx.Generator | None:
        """A program for up to as many tokens as these, for as many alone, or none."""
        why = ""
        for open_tokens in (True, False):
            try:
                program = self._made(latent, condition, open_tokens)
                given = arrays(latent, condition, condition.longest if open_tokens else condition.mask.shape[1])
                expected = self.network._call_impl(latent, condition)  # compiled, it might take a minute
                difference = (torch.from_numpy(program.arrays(given)) - expected).abs().max().item()
                if not difference <= GREY_LEVEL:
                    raise UserError(f"its images differ by {difference:.1e}")
            except Exception as error:  # exporters and onnxruntime raise what they like
                why = reason(error)
                continue
            if open_tokens:
                self.longest = condition.mask.shape[1]
            return program
        say(f"onnxruntime: {why}: PyTorch draws")
        return None

    def _made(self, latent: Tensor, condition: Condition, open_tokens: bool) -> onnx.Generator:
        two = [0, *range(len(latent))][: max(2, len(latent))]
        example = inputs(latent[two], condition.rows(two))
        if "attention_mask" in example:
            example["attention_mask"] = condition.mask[two]  # as it is
        name = fingerprint(self.network, example, open_tokens, self.with_pixels)
        path = caches.root() / "onnxruntime" / f"{name}.onnx"
        if not path.exists():
            program = (FromFeatures if "tokens" in example else FromIds)(self.network)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                with patience("onnxruntime: writing a program of the network"), quiet():
                    written = exported(for_onnx(program.eval()), example, open_tokens)
                    onnx.write(written, Path(folder, path.name), pixels=self.with_pixels)
                os.replace(Path(folder, path.name), path)
        caches.used(path)
        return onnx.Generator(str(path), latent.shape[1], provider=self.provider)


def drawn_as_exported(network: nn.Module) -> bool:
    """Whether what is asked of it now is what a program of it draws: whole styles, at its own size, in float32."""
    own = getattr(network, "truncation", 1.0) == 1.0 and getattr(network, "canvas", None) is None
    return own and not torch.is_autocast_enabled("cpu")


def fingerprint(network: nn.Module, example: dict[str, Tensor], open_tokens: bool, pixels: bool = True) -> str:
    """Of what a program is made of: weights, layers and their code, what it takes and gives, and what writes it."""
    takes = {name: (each.dtype, each.shape[1:]) for name, each in example.items()}
    content = hashlib.sha256(f"{network} {takes} {open_tokens} {pixels} {torch.__version__}".encode())
    modules = {type(layer).__module__ for layer in network.modules()} | {for_onnx.__module__, onnx.__name__}
    for module in sorted(each for each in modules if each.partition(".")[0] != "torch"):
        file = getattr(sys.modules[module], "__file__", None)
        content.update(Path(file).read_bytes() if file else module.encode())
    for name, weight in network.state_dict().items():
        content.update(name.encode())
        content.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:32]
