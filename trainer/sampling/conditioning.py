"""What is made of captions before and while they are drawn: composed, led away from another, guided, truncated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.size import Size

if TYPE_CHECKING:
    from trainer.batch import Condition

    Text = Callable[[Sequence[str]], Condition]

COMPOSITIONS = ("mean", "words")
WEIGHT = re.compile(r"(.*\S)\s*:\s*([-+]?[\d.]\S*)", re.DOTALL)
PLUS = re.compile(r"(?<!\S)\+(?!\S)")


@dataclass(frozen=True)
class Conditioning:
    """How captions become conditions; without any of it each is drawn as it stands. UserError for what does not fit.

    compose: a caption is several, as `an elephant:0.7 + a garden:0.3`; weights, 1 where none is said, are divided by
    their sum. "mean": their features are averaged, those of words by place. "words": their words stand in one row, and
    the pooled features are averaged; weights reach these alone. None: a plus is a plus.
    negative: a caption n to go away from. Without guidance features are c + negative_scale (c - n), 1 if that is None:
    an extrapolation in the space of the text encoder, where no training has been.
    guidance: scale of `Objective.guided`, away from the negative caption or else the empty one. Only of a run that was
    trained with text.caption_dropout.
    source_guidance: scale of the same for the source of an image task, away from no source: `Objective.guided` where
    it stands alone, `guided_by_both` beside guidance. Only of a run that was trained with task.source_dropout.
    enrich: captions are first made into descriptions by a language model, smollm2, a folder or a hub id
    (`trainer.text.enrichment`); not those of `negative`, and empty ones stay. enrich_examples: a text file of
    descriptions for it to go by.
    truncation: how far a style is from the mean style of its caption, of what it was: 0.7 for images that are more
    typical and less varied, 1 for all. Only of a generator that has styles.
    resolution: height and width of the pictures, or a number for both, of a run with data.buckets; None for its own.
    precision: bfloat16 for products in it, by autocast: other images than those of float32, which None is.
    """

    compose: str | None = None
    negative: str | None = None
    negative_scale: float | None = None
    guidance: float | None = None
    source_guidance: float | None = None
    truncation: float | None = None
    enrich: str | None = None
    enrich_examples: str | None = None
    resolution: Any = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.compose not in (None, *COMPOSITIONS):
            raise UserError(f"compose={self.compose}: expected {', '.join(COMPOSITIONS)} or null")
        if self.resolution is not None:
            object.__setattr__(self, "resolution", Size.of(self.resolution))  # to be hashed
        if self.precision not in (None, "bfloat16"):
            raise UserError(f"precision={self.precision}: expected bfloat16, or null for float32")
        if self.negative is not None and not self.negative.strip():
            raise UserError("negative: expected a caption, as in negative='a dog'; leave it out for none")
        for key in ("negative_scale", "guidance", "source_guidance", "truncation"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{key}={value}: expected a number from 0")
        if self.enrich_examples is not None and self.enrich is None:
            raise UserError(f"enrich_examples={self.enrich_examples}: of a language model; say enrich=smollm2, too")
        if self.enrich is not None and self.compose is not None:
            raise UserError(f"enrich={self.enrich}: of captions that stand alone; leave it out, or compose")
        if self.negative_scale is not None and (self.negative is None or self.guidance is not None):
            raise UserError(
                f"negative_scale={self.negative_scale}: of negative='a dog' alone; with guidance, that is the scale"
            )

    def __call__(self, text: Text, captions: Sequence[str]) -> Condition:
        """Condition of N captions by a text encoder, which encodes all of them, and their parts, together."""
        captions = self.enriched(captions)
        condition = text(captions) if self.compose is None else self._composed(text, captions)
        if self.negative is None or self.guidance is not None:
            return condition
        from trainer.sampling.features import shifted

        return shifted(condition, text([self.negative]), 1.0 if self.negative_scale is None else self.negative_scale)

    def enriched(self, captions: Sequence[str]) -> list[str]:
        """The texts that are drawn for captions: these themselves, or what a language model made of them."""
        given = [caption for caption in captions if caption.strip()] if self.enrich else []
        made = dict(zip(given, self._enricher(given), strict=True)) if given else {}
        return [made.get(caption, caption) for caption in captions]

    def origin(self, caption: str) -> dict[str, str]:
        """What is said of the caption of an image, for its metadata."""
        return {"prompt": caption} | ({"enriched": self.enriched([caption])[0]} if self.enrich else {})

    @property
    def alters(self) -> bool:
        """Whether a network draws otherwise than a program of it."""
        return any(each is not None for each in (self.truncation, self.resolution, self.precision))

    def computing(self, device: Any) -> AbstractContextManager[Any]:
        """Within it a network on `device` computes in the precision that is asked for."""
        import torch

        return torch.autocast(device.type, torch.bfloat16) if self.precision else nullcontext()

    @property
    def _enricher(self) -> Any:
        from trainer.text.enrichment import enricher

        return enricher(str(self.enrich), self.enrich_examples)

    def _composed(self, text: Text, captions: Sequence[str]) -> Condition:
        import torch

        from trainer.batch import Condition
        from trainer.sampling.features import joined, mixed

        parts = [parse_composition(caption) for caption in captions]
        encoded, begin = text([part for each in parts for part, _ in each]), 0
        found: list[Condition] = []
        for each in parts:
            rows, weights = encoded.rows(slice(begin, begin + len(each))), torch.tensor([weight for _, weight in each])
            found.append(mixed(rows, weights[None]) if self.compose == "mean" else joined(rows, weights))
            begin += len(each)
        return Condition.cat(found)

    def require(self, config: dict[str, Any], wordless: bool) -> None:
        """UserError where a run of this configuration, or one that reads no captions, cannot be drawn so."""
        without_words = {"truncation": None, "source_guidance": None, "resolution": None, "precision": None}
        if wordless and replace(self, **without_words) != Conditioning():
            raise UserError(f"{self}: this model reads no captions, so there is nothing to compose or to guide by")
        if self.resolution is not None and not (config.get("data") or {}).get("buckets"):
            raise UserError(
                f"resolution={self.resolution}: this run has learned pictures of one size; train one with data.buckets"
            )
        if self.guidance is not None and not (config.get("text") or {}).get("caption_dropout"):
            raise UserError(
                f"guidance={self.guidance}: this run has seen no empty caption to guide away from; train one with "
                "text.caption_dropout=0.1, or go away from a caption by negative='a dog' alone"
            )

    def require_of(self, network: Any) -> None:
        """UserError where a network cannot draw so."""
        if self.truncation is not None and not hasattr(network, "truncation"):
            asked, remedy = f"truncation={self.truncation}", "leave it out, or give a run of stylegan2 or stylevae"
            raise UserError(f"{asked}: {type(network).__name__} has no styles to be truncated; {remedy}")
        if self.resolution is not None:
            from trainer.networks.sized import check_canvas

            check_canvas(network, self.resolution)

    @contextmanager
    def altering(self, network: Any) -> Iterator[None]:
        """Within it a network draws so: styles cut, pictures of another size."""
        with ExitStack() as until:
            if self.resolution is not None:
                from trainer.networks.sized import canvases, drawing

                until.enter_context(drawing(self.resolution, canvases(network.modules())))
            if self.truncation is not None:
                network.truncation = self.truncation
                until.callback(setattr, network, "truncation", 1.0)
            yield

    def settings(self) -> dict[str, str]:
        """What is said of it, as texts: for names and metadata of what is drawn so."""
        said = {key: str(value) for key, value in asdict(self).items() if value is not None}
        if self.enrich:
            said |= {"enrich": self._enricher.name}  # with the examples; paths stay here
            said.pop("enrich_examples", None)
        return said

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.settings().items())


def parse_composition(caption: str) -> list[tuple[str, float]]:
    """Captions and their weights, which add up to 1, of `a cat:0.7 + a dog:0.3`. A plus has space around it.

    UserError where a part is empty or a weight is no number above 0.
    """
    found: list[tuple[str, float]] = []
    for part in PLUS.split(caption):
        weighted = WEIGHT.fullmatch(part.strip())
        name, number = (weighted[1], weighted[2]) if weighted else (part.strip(), "1")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise UserError(f"{caption!r}: {part.strip()!r} is no part; expected 'a cat:2 + a dog:1', weights above 0")
        found.append((name, weight))
    total = sum(weight for _, weight in found)
    return [(name, weight / total) for name, weight in found]
