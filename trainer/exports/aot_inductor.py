"""model.aot.pt2: compiled ahead of time by AOTInductor for the processor or GPU it is made on.

`torch._inductor.aoti_load_package(file)` runs it.
"""

from __future__ import annotations

import platform
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from trainer.errors import UserError
from trainer.exports.program import Runtime, reason
from trainer.size import Resolution

PackageLoader: Any = torch._C._aoti.AOTIModelPackageLoader  # its stub lacks half of it
REMEDY = "export it again on this machine"


def write(exported: ExportedProgram, path: Path) -> None:
    # the compiler would leave out the float16 that the features of captions are rounded to
    exact = {"emulate_precision_casts": True}
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=exact)


class Generator(Runtime):
    """Draws with a model.aot.pt2; UserError if it is no such file, or made for a machine unlike this one."""

    def __init__(self, path: str, latent_channels: int, task: Any = None, resolution: Resolution = 0):
        super().__init__(latent_channels, task, resolution)
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is no package of AOTInductor, or cut short: {REMEDY}")
        try:
            made_for = PackageLoader.load_metadata_from_package(path, "model")
            self._require(path, made_for)
            self.program = torch._inductor.aoti_load_package(path)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be loaded by this PyTorch ({reason(error)}): {REMEDY}") from error
        self.device = torch.device(made_for["AOTI_DEVICE_KEY"])

    def _require(self, path: str, made_for: dict[str, str]) -> None:
        device = made_for["AOTI_DEVICE_KEY"]
        if device == "cuda":
            here = ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else "none"
            wanted = made_for["AOTI_COMPUTE_CAPABILITY"]
            if wanted not in (here, here.replace(".", "")):
                raise UserError(f"{path} was made for a GPU of compute capability {wanted}, here: {here}; {REMEDY}")
        machine, features = made_for["AOTI_MACHINE"], instructions()
        lacking = [isa for isa in made_for["AOTI_CPU_ISA"].lower().split() if features and isa not in features]
        if machine != platform.machine() or (device == "cpu" and lacking):
            wanted = " ".join([machine, *lacking])
            raise UserError(f"{path} was made for a processor with {wanted}, which this one is not; {REMEDY}")

    def run(self, given: dict[str, Tensor]) -> Tensor:
        return self.program(*(each.to(self.device) for each in given.values()))


def instructions() -> set[str]:
    """Vector instructions of this processor, named as AOTInductor names them; empty where Linux does not tell."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
    return flags | ({"avx512"} if "avx512f" in flags else set()) if "avx2" in flags else set()
