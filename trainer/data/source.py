"""What a data source is: something that lists captioned images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Item:
    """One captioned image.

    key: names the image to a person, e.g. its file.
    captions: one or more; the first is the one used in evaluation.
    concept: items of one concept never stand on both sides of the train / held-out split.
    load: given the wanted resolution in pixels, the image at any size; the cache crops and resizes it.
        Sources that draw, or that decode faster at a reduced scale, use the number; others ignore it.
    attributes: what is known of the image, kept as JSON.
    heldout: True or False where the source itself draws the split, None where the concept decides.
    source: what a translation starts from: the picture that pairs with this one, or one of another domain. Its own
        captions count where pictures are drawn unpaired (`data.paired`). All items of a source have one, or none has.
    """

    key: str
    captions: tuple[str, ...]
    concept: str
    load: Callable[[int], Image.Image]
    attributes: dict[str, Any] = field(default_factory=dict)
    heldout: bool | None = None
    source: Item | None = None


class Source(Protocol):
    """Lists captioned images. `attribution` is the credit their licence asks for, '' if none.

    A class may have an `example`: a caption that is shown where one is wanted for what learned from it; and `pairs`,
    False where an item and its source have nothing to do with each other.
    """

    attribution: str

    def fingerprint(self) -> str:
        """A text that changes whenever the items would."""
        ...

    def items(self) -> Iterable[Item]:
        """The items, always in the same order."""
        ...


def digest(*parts: object) -> str:
    """16 hex digits that depend on every part."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=8).hexdigest()
