"""Batches of some sizes by programs that AOTInductor compiled on this machine: as fast as compiled, there at once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.exports.aot_inductor import PackageLoader
from trainer.exports.making import patience, quiet
from trainer.exports.program import FromFeatures, FromIds, inputs, reason
from trainer.exports.small_batches import drawn_as_exported, fingerprint
from trainer.process import caches
from trainer.process.compiling import keep_code, processor
from trainer.process.progress import say
from trainer.sampling.batch_invariance import FULL, GREY_LEVEL, unpatched

SIZES = (1, 2, 4, 8, FULL)  # in which the sampler draws; more images are so many times 16
# weights are laid out as the kernels of this processor want them; float16 that features are rounded to stays
OPTIONS = {"freezing": True, "emulate_precision_casts": True}


def aot(network: nn.Module, batch_sizes: Sequence[int] | None = None) -> nn.Module:
    """Batches of these sizes, and with 16 among them of its multiples, are drawn by compiled programs.

    batch_sizes: of 1, 2, 4, 8, 16; None for 16, in the place of which trainer.compress puts those of 1 and 16 that pay
    on its machine. A program is compiled at the first batch of its size, in a minute or less, into $TRAINER_CACHE, by
    weights, machine and threads, and never read from a checkpoint: it is machine code. Each process compares its first
    images with the network's: where they differ by more than a grey level, where nothing can be compiled, or on a GPU,
    the network draws, and a line says so. UserError for a prior of codes, whose steps would be written out one by one.
    Changes `network`.
    """
    sizes = tuple(batch_sizes or (FULL,))
    if not {*sizes} <= {*SIZES}:
        raise UserError(f"passes.aot.batch_sizes={[*sizes]}: expected some of {', '.join(map(str, SIZES))}")
    if getattr(network, "chooses", False):
        raise UserError("aot: a prior of codes takes minutes to export: leave it out")
    if (device := next(network.parameters()).device).type != "cpu":
        say(f"aot: this network is on {device}: PyTorch draws")
        return network
    network._compiled_call_impl = AheadOfTime(network, sizes)
    return network


class AheadOfTime:
    """What calling `network` becomes: (latent, condition) -> images (N, 3, H, W) in [-1, 1]."""

    def __init__(self, network: nn.Module, batch_sizes: tuple[int, ...]):
        self.network, self.batch_sizes = network, batch_sizes
        self.otherwise: Any = network._compiled_call_impl or network._call_impl
        self.of_any_size = network._compiled_call_impl is None  # else what is of no such size is compiled for each
        self.programs: dict[tuple[int, ...], Any] = {}  # by images, tokens and threads

    def __call__(self, latent: Tensor, condition: Condition) -> Tensor:
        if torch.compiler.is_exporting():
            traced: Tensor = self.network._call_impl(latent, condition)
            return traced
        size = min(len(latent), FULL)
        fits = size in self.batch_sizes and len(latent) % size == 0
        parts = [slice(i, i + size) for i in range(0, len(latent), size)]
        program = None
        if fits and drawn_as_exported(self.network):
            program = self.program(latent[parts[0]], condition.rows(parts[0]))
        if program is None:
            images: Tensor = self.otherwise(latent, condition)
            return images
        return torch.cat([run(program, latent[part], condition.rows(part)) for part in parts])

    def program(self, latent: Tensor, condition: Condition) -> Any:
        """What draws batches of just these shapes; None where that cannot be."""
        key = len(latent), condition.mask.shape[1], torch.get_num_threads()
        if key not in self.programs:
            with torch.inference_mode(False), torch.no_grad(), unpatched(self.network):
                self.programs[key] = self._learn(latent.clone(), condition.map(torch.clone))
        return self.programs[key]

    def _learn(self, latent: Tensor, condition: Condition) -> Any:
        try:
            program = self._made(inputs(latent, condition))
            expected = self.network._call_impl(latent, condition)
            difference = (run(program, latent, condition) - expected).abs().max().item()
            if not difference <= GREY_LEVEL:
                raise UserError(f"its images differ by {difference:.1e}")
        except Exception as error:  # exporters and compilers raise what they like
            say(f"aot: {reason(error)}: PyTorch draws")
            return None
        return program

    def _made(self, example: dict[str, Tensor]) -> Any:
        made_of: tuple[Any, ...] = fingerprint(self.network, example, False), len(example["latent"])
        made_of += torch.get_num_threads(), processor()
        path = caches.root() / "aot" / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.pt2"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                with patience(f"aot: compiling for batches of {len(example['latent'])}"), quiet():
                    write(self.network, example, Path(folder, path.name))
                os.replace(Path(folder, path.name), path)
        caches.used(path)
        # without `torch._inductor`, whose import alone takes more than a second
        return PackageLoader(str(path), "model", False, 1, -1)


def write(network: nn.Module, example: dict[str, Tensor], path: Path) -> None:
    """A package of machine code that draws batches of the example's shapes."""
    keep_code()
    program = (FromFeatures if "tokens" in example else FromIds)(network).eval()
    given = tuple(each.contiguous() for each in example.values())
    exported = torch.export.export(program, given, strict=False)
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=OPTIONS)


def run(program: Any, latent: Tensor, condition: Condition) -> Tensor:
    images: Tensor = program.run([each.contiguous() for each in inputs(latent, condition).values()])[0]
    return images
