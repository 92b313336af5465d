"""What a frozen tokenizer makes of the images of a cache, made once and kept beside them: codes or latents."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.data import checksums
from trainer.data.reader import Reader
from trainer.data.rows import Rows, damaged
from trainer.process.locks import acquire
from trainer.process.progress import Progress, say

_AT_ONCE = 64  # images in memory


class Encoding(NamedTuple):
    """kind: "codes" or "latents". network: the tokenizer; its weights are the key of what is kept.
    encode: images (N, 3, H, W) in [-1, 1] on the device of `network` -> codes (N, h, w) int64 or latents (N, C, h, w).
    """

    kind: str
    network: Any
    encode: Callable[[Tensor], Tensor]

    @property
    def file(self) -> str:
        content = hashlib.sha256(self.kind.encode())
        for name, value in sorted(self.network.state_dict().items()):
            content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return f"{self.kind}-{content.hexdigest()[:16]}.npy"

    @property
    def dtype(self) -> np.dtype:
        """float16 of latents, the smallest whole numbers that hold them of codes."""
        return np.min_scalar_type(int(self.network.num_codes) - 1) if self.kind == "codes" else np.dtype(np.float16)

    @torch.no_grad()
    def of(self, images: np.ndarray) -> np.ndarray:
        """Of images (N, H, W, 3) uint8, as `dtype`."""
        parameter = next(self.network.parameters())
        with torch.autocast(parameter.device.type, enabled=False):
            image = torch.from_numpy(images).to(parameter.device).permute(0, 3, 1, 2)
            return self.encode(image.float().div_(127.5).sub_(1)).cpu().numpy().astype(self.dtype)


def encoded(cache: Reader, encoding: Encoding) -> Rows | None:
    """All images of the cache, encoded, read from their file as they are asked for; None where it cannot be written.

    Safe to call from any number of processes, each with the same weights: one encodes, the others wait for it.
    UserError where what is there is damaged.
    """
    path = cache.beside(encoding.file)
    try:
        if not path.exists():
            with open(path.with_suffix(".lock"), "w") as lock:
                if acquire(lock):
                    for left in cache.folder.glob(f"{path.stem}.building-*"):  # by a process that was killed
                        left.unlink(missing_ok=True)
                if not path.exists():
                    _write(cache, encoding, path)
    except OSError as error:  # a cache that others own, or a full disk
        say(f"{path}: {error.strerror}; {encoding.kind} are not kept, but made anew in each step")
        return None
    try:
        rows = Rows(path, encoding.dtype, 3 if encoding.kind == "codes" else 4)
        checksums.compare(rows, np.load(path.with_suffix(".crc32")))
    except FileNotFoundError as error:  # of the checksums
        raise damaged(path, f"{error.filename} is missing") from error
    except (ValueError, EOFError) as error:
        raise damaged(path, str(error)) from error
    return rows


def _write(cache: Reader, encoding: Encoding, path: Path) -> None:
    images = cache.images
    progress = Progress(f"{encoding.kind} of {cache.folder.name}:", "images", len(images))
    building = path.with_suffix(f".building-{uuid.uuid4().hex[:12]}")
    try:
        with open(building, "wb") as file:
            for start in range(0, len(images), _AT_ONCE):
                rows = encoding.of(images[start : start + _AT_ONCE])
                if not start:
                    shape = (len(images), *rows.shape[1:])
                    header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    sums = checksums.Checksums(rows[0].nbytes)
                for row in rows:
                    file.write(content := row.tobytes())
                    sums.add(content)
                progress(start + len(rows))
        with open(path.with_suffix(".crc32"), "wb") as file:
            np.save(file, np.array(sums.values, np.uint32))
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
