"""The caption of a picture by encoder.onnx and decoder.onnx beside this file: python infer.py PICTURE

It needs onnxruntime, tokenizers and Pillow alone; the caption is that of trainer.caption with beams=1.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def pixels(file: str, height: int, width: int) -> np.ndarray:
    """(1, 3, height, width) in [-1, 1]: upright, on white, the largest part in the middle of these proportions."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):  # 16 bits, of which `convert` would cut off what is above 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    across = min(image.width, image.height * (width / height))
    tall = min(image.height, image.width * (height / width))
    left, top = (image.width - across) / 2, (image.height - tall) / 2
    if image.size != (width, height):
        box = (left, top, left + across, top + tall)
        image = image.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3)
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1


def main(file: str) -> None:
    folder = Path(__file__).parent
    encoder, decoder = (onnxruntime.InferenceSession(str(folder / f"{name}.onnx")) for name in ("encoder", "decoder"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    shapes = {each.name: each.shape for each in encoder.get_inputs()}
    given = {"image": pixels(file, *shapes["image"][2:])}
    if "latent" in shapes:  # of a captioner that writes several captions: the middle of its prior
        given["latent"] = np.zeros((1, shapes["latent"][1]), np.float32)
    seen = encoder.run(None, given)[0]
    padded = tokenizer.encode("a")  # its last piece ends a caption
    end, most = padded.ids[sum(padded.attention_mask) - 1], len(padded.ids)
    ids = [decoder.get_outputs()[0].shape[1]]  # behind all pieces is the one that begins
    while len(ids) <= most and ids[-1] != end:
        ids.append(int(decoder.run(None, {"seen": seen, "ids": np.array([ids])})[0].argmax()))
    print(tokenizer.decode([each for each in ids[1:] if each != end]).strip())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1])
