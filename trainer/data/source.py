"""What a data source is: something that lists captioned images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from PIL import Image

from trainer.size import Resolution


class Place(NamedTuple):
    """Where the encoded bytes of a picture lie in a file."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True)
class Item:
    """One captioned image.

    key: names the image to a person, e.g. its file.
    captions: one or more; the first is the one used in evaluation.
    concept: items of one concept never stand on both sides of the train / held-out split.
    load: given the wanted resolution, the image at any size; the cache crops and resizes it.
        Sources that draw, or that decode faster at a reduced scale, use the number; others ignore it.
    attributes: what is known of the image, kept as JSON.
    heldout: True or False where the source itself draws the split, None where the concept decides.
    source: what a translation starts from: the picture that pairs with this one, or one of another domain. Its own
        captions count where pictures are drawn unpaired (`data.paired`). All items of a source have one, or none has.
    place: where its encoded bytes lie, or these where they lie in no file as they are; `load` is then `open_image` of
        them. None for what is drawn or changed as it is loaded.
    """

    key: str
    captions: tuple[str, ...]
    concept: str
    load: Callable[[Resolution], Image.Image]
    attributes: dict[str, Any] = field(default_factory=dict)
    heldout: bool | None = None
    source: Item | None = None
    place: Place | bytes | None = None


class Source(Protocol):
    """Lists captioned images. `attribution` is the credit their licence asks for, '' if none.

    A class may have an `example`: a caption that is shown where one is wanted for what learned from it; and `pairs`,
    False where an item and its source have nothing to do with each other. Where items have a place, a source has a
    `base`, the folder that its files are named from; and where it is made of files with many items each, `shards`,
    their names, and `of(shard)`, the items of one: `items` are those of all shards, in this order.
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
