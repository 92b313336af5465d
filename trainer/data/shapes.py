"""Procedural scenes as a data source, with held-out combinations of words."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from trainer.data.scenes import (
    BACKGROUNDS,
    COLOURS,
    JITTER,
    POSITIONS,
    SHAPES,
    SIZES,
    SUPERSAMPLING,
    Scene,
    random_scene,
)
from trainer.data.source import Item, digest
from trainer.errors import UserError

_HELDOUT_COMBINATIONS = 0.1  # of the (colour, shape) pairs, and of the (size, position, shape) triples


def heldout_combinations(seed: int) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """The (colour, shape) pairs and the (size, position, shape) triples that no training scene contains."""
    return _hold_out(seed, COLOURS, SHAPES), _hold_out(seed, SIZES, POSITIONS, SHAPES)


def _hold_out(seed: int, *vocabularies: dict[str, Any]) -> set[tuple[str, ...]]:
    every = sorted(product(*vocabularies), key=lambda words: digest(seed, *words))
    heldout: set[tuple[str, ...]] = set()
    uses: Counter[str] = Counter()
    most = {word: len(every) // len(words) // 2 for words in vocabularies for word in words}
    for words in every:
        if len(heldout) < round(_HELDOUT_COMBINATIONS * len(every)) and all(uses[w] < most[w] for w in words):
            heldout.add(words)  # every word keeps at least half of its combinations for training
            uses.update(words)
    return heldout


class Shapes:
    """num_images scenes, of which the fraction `heldout` contains a combination that the others never do.

    max_objects: up to 3 fit. paraphrases: more than one caption an image. Scene i is a pure function of (seed, i).
    """

    attribution = ""
    example = "a small red circle on a white background"

    def __init__(
        self,
        num_images: int = 20000,
        max_objects: int = 3,
        heldout: float = 0.1,
        paraphrases: bool = False,
        seed: int = 0,
    ) -> None:
        if not 1 <= max_objects <= 3:
            raise UserError(f"data.source.max_objects={max_objects}: expected 1, 2 or 3")
        if num_images < 1 or not 0 <= heldout <= 1:
            raise UserError(f"data.source: num_images={num_images} and heldout={heldout}: expected > 0 and in [0, 1]")
        self.num_images, self.max_objects, self.heldout = num_images, max_objects, heldout
        self.paraphrases, self.seed = paraphrases, seed
        self._pairs, self._triples = heldout_combinations(seed)

    def fingerprint(self) -> str:
        look = (COLOURS, BACKGROUNDS, SIZES, POSITIONS, SHAPES, JITTER, _HELDOUT_COMBINATIONS, SUPERSAMPLING)
        said = [self.item(number).captions for number in range(min(64, self.num_images))]  # tells a change of grammar
        return digest(self.num_images, self.max_objects, self.heldout, self.paraphrases, self.seed, look, said)

    def items(self) -> Sequence[Item]:
        return _Items(self)

    def item(self, number: int) -> Item:
        rng = random.Random(f"{self.seed}/{number}")
        heldout = rng.random() < self.heldout
        scene = random_scene(rng, self.max_objects)
        while self.is_heldout(scene) != heldout:
            scene = random_scene(rng, self.max_objects)
        captions = scene.captions() if self.paraphrases else scene.captions()[:1]
        return Item(f"scene {number}", captions, captions[0], scene.render, scene.attributes(), heldout)

    def others(self, count: int) -> list[Item]:
        """Further held-out scenes, none of them among `items`: what a perfect generator would draw."""
        further = (self.item(number) for number in itertools.count(self.num_images))
        return list(itertools.islice((item for item in further if item.heldout), count))

    def is_heldout(self, scene: Scene) -> bool:
        """Whether the scene contains a combination kept out of training."""
        pairs = {(thing.colour, thing.shape) for thing in scene.things}
        triples = {(thing.size, thing.position, thing.shape) for thing in scene.things}
        return bool(pairs & self._pairs or triples & self._triples)


class _Items(Sequence[Item]):
    """Scenes drawn when asked for, so that a million of them take no memory."""

    def __init__(self, source: Shapes) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.num_images

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source.item(index)
