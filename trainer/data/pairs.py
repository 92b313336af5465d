"""Two pictures of one thing: emoji that several designers drew; and two domains that no pair joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer import noise
from trainer.data.emoji import Emoji, code_points
from trainer.data.fluent import Fluent
from trainer.data.openmoji import OpenMoji
from trainer.data.source import Item, Source, digest
from trainer.errors import UserError

STYLES: dict[str, tuple[type[Emoji], str]] = {  # name -> the pictures, and what a caption calls their style
    "twemoji": (Emoji, "flat"),
    "fluent": (Fluent, "3D"),
    "openmoji": (OpenMoji, "outlined"),
}


class EmojiPairs:
    """Emoji of one design and of another, joined by their code points, with the captions of `Emoji`.

    source: twemoji, fluent or openmoji. target: another one, or a list of them: captions then end with the style that
    is wanted, as in "red apple, 3D", and a target may be the source itself, which stays as it is. Concepts, and so what
    is held out, are those of the names. skin_tones: as of `Emoji`.
    """

    attribution = "; ".join(design.attribution for design, _ in STYLES.values())  # of all that there may be

    def __init__(self, source: str = "twemoji", target: str | Sequence[str] = "fluent", skin_tones: bool = False):
        targets = [target] if isinstance(target, str) else [*target]
        for option, names in (("source", [source]), ("target", targets)):
            if unknown := [name for name in names if name not in STYLES]:
                raise UserError(f"data.source.{option}={unknown[0]}: expected one of {', '.join(STYLES)}")
        if not targets or targets == [source] or len(set(targets)) < len(targets):
            raise UserError(f"data.source.target={target}: expected another design than {source}, or several of them")
        self.name, self.targets = source, targets
        self.designs = {name: STYLES[name][0](skin_tones=skin_tones) for name in dict.fromkeys([source, *targets])}
        self.attribution = "; ".join(design.attribution for design in self.designs.values())

    def fingerprint(self) -> str:
        return digest("pairs", self.name, *self.targets, *(each.fingerprint() for each in self.designs.values()))

    def items(self) -> list[Item]:
        starts = {code_points(item.key.rpartition(".")[0]): item for item in self.designs[self.name].items()}
        found = []
        for target in self.targets:
            for item in self.designs[target].items():
                source = starts.get(code_points(item.key.rpartition(".")[0]))
                if source is not None:
                    found.append(self._pair(item, source, target))
        return found

    def _pair(self, item: Item, source: Item, target: str) -> Item:
        """The names are the source's: designs that lack a picture may share others' names."""
        captions, more = source.captions, {"source": self.name, "target": target}
        if len(self.targets) > 1:
            captions = tuple(f"{caption}, {STYLES[target][1]}" for caption in captions)
        key = f"{target}/{item.key}"
        return replace(
            item, key=key, captions=captions, concept=source.concept, attributes=item.attributes | more, source=source
        )


class Domains:
    """Two sets of pictures, as of horses and zebras: what is drawn belongs to `target`, where it starts to `source`.

    Each picture keeps its own captions. Where one set is smaller, its pictures come again. heldout: fraction of the
    concepts of each set that is held out; held-out sources meet held-out targets, by chance.
    """

    attribution = ""
    pairs = False

    def __init__(self, source: Source, target: Source, heldout: float = 0.1):
        self.domains, self.heldout = (target, source), heldout
        self.attribution = "; ".join(dict.fromkeys(each.attribution for each in self.domains if each.attribution))

    def fingerprint(self) -> str:
        return digest("domains", self.heldout, *(each.fingerprint() for each in self.domains))

    def items(self) -> list[Item]:
        sides = [parted([*each.items()], self.heldout) for each in self.domains]
        found = []
        for (targets, sources), heldout in zip(zip(*sides, strict=True), (False, True), strict=True):
            for number in range(max(len(targets), len(sources)) if targets and sources else 0):
                target, source = targets[number % len(targets)], sources[number % len(sources)]
                found.append(replace(target, heldout=heldout, source=source))
        return found


def parted(items: Sequence[Item], fraction: float) -> tuple[list[Item], list[Item]]:
    """Training and held-out items, whole concepts each: at least one of them on each side, unless fraction is 0."""
    concepts = [*dict.fromkeys(item.concept for item in items)]
    numbers = torch.tensor([int(digest(concept), 16) - (1 << 63) for concept in concepts])
    order = noise.uniform(0, "heldout", numbers, 1)[:, 0].argsort(stable=True).tolist()
    count = min(max(1, round(fraction * len(concepts))), len(concepts) - 1) if fraction else 0
    chosen = {concepts[place] for place in order[:count]}
    return [each for each in items if each.concept not in chosen], [each for each in items if each.concept in chosen]
