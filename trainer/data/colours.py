"""Pictures of any kind of pixels as RGB of 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image


def as_rgb(image: Image.Image) -> Image.Image:
    """RGB: what is transparent is mixed with white, grey is repeated, and more than 8 bits are brought to 8.

    CMYK, YCbCr and Lab are converted by their plain formulas: profiles of colours are not read.
    """
    image = in_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")  # it would copy it


def in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 8 bits in place of more, of which `convert` would cut off what is above 255; others as they are.

    Of whole numbers, 0 to 65,535, the upper 8 bits, as a decoder of 16-bit colours takes them. Fractions are 0 to 1, or
    0 to 255 where any is above 1. A grey that the file calls transparent is so.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        grey = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
        if (clear := image.info.get("transparency")) is not None:
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        values = values if (values > 1).any() else values * 255
        return Image.fromarray((values.clip(0, 255) + 0.5).astype(np.uint8))
    return image
