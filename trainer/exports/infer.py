"""A picture of a prompt by the model.onnx beside this file: python infer.py PROMPT [SEED] [FILE.png]

It needs onnxruntime and tokenizers alone; a prompt and a seed are the image that trainer.sample draws of them.
"""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def latent(seed: int, channels: int) -> np.ndarray:
    """(1, channels) standard normals: SplitMix64 (Steele et al. 2014) of seed and channel, and Box-Muller."""
    golden = np.uint64(0x9E3779B97F4A7C15)

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    row = mix(mix(np.array([zlib.crc32(b"sample")], np.uint64)) + np.array([seed]).astype(np.uint64) * golden)
    raw = mix(row + np.arange(1, channels + 1, dtype=np.uint64) * golden)
    radius, angle = ((raw >> np.uint64(32)) + 1.0) / 2**32, (raw & np.uint64(0xFFFFFFFF)) / 2**32
    return (np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)).astype(np.float32)[None]


def png(pixels: np.ndarray) -> bytes:
    """The file of (H, W, 3) uint8."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def main(prompt: str, seed: str = "0", file: str = "image.png") -> None:
    folder = Path(__file__).parent
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt)
    shapes = {each.name: each.shape for each in session.get_inputs()}
    channels = shapes["latent"][1]
    most = shapes["input_ids"][1]
    length = sum(text.attention_mask) or 1 if isinstance(most, str) else most  # without padding where any will do
    words = {"input_ids": [text.ids[:length]], "attention_mask": [text.attention_mask[:length]]}
    given = {"latent": latent(int(seed), channels), **words}
    if "source" in shapes:  # a picture, or none: then it is grey, and its last channel 1
        source = np.zeros((1, *shapes["source"][1:]), np.float32)
        source[:, -1] = 1
        given["source"] = source
    images = session.run(None, {name: np.asarray(each) for name, each in given.items()})[0]
    pixels = np.clip(np.rint((images[0].transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)
    Path(file).write_bytes(png(pixels))
    print(file)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4 or not sys.argv[1].strip() or not (sys.argv[2:3] or ["0"])[0].lstrip("-").isdigit():
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
