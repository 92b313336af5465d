"""A small text encoder that learns from a frozen one, in the place of which a generator then reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from trainer import noise
from trainer.batch import Batch, Condition
from trainer.errors import UserError
from trainer.losses.distillation import feature_distance, pixel_distance
from trainer.networks.sized import canvases
from trainer.networks.worded import WordedGenerator
from trainer.objectives.base import Objective
from trainer.runs.drawing import draws, require_grown
from trainer.runs.trained import Teacher
from trainer.size import Size
from trainer.text.pieces import Pieces

MOST_WORDS = 8  # of a made caption


class TextDistillation(Objective):
    """Minimises, over captions, the distance of a student's features from those of the encoder of a trained run:

        |t - t'|^2 / |t|^2 of the tokens + |p - p'|^2 / |p|^2 of the pooled features + pixel |G(z, c) - G(z, c')|

    as FitNets' hints (Romero et al. 2015), with G the generator of that run, frozen, from the same latent z. What the
    frozen encoder says of a caption is computed once and cached on disk, as for any training.
    generator: the student (`text`) and G; the weights of G are read from the run `teacher` when a new training begins,
    and kept in checkpoint and export: nothing needs that run afterwards.
    others: share of a batch, in [0, 1), whose captions are not those of the data but lines of the text file `corpus`,
    or, if that is None, `made` captions of 1 to 8 words of the tokenizer's vocabulary: so the student reads what the
    data never say. UserError: no such file, no lines in it.
    """

    averaged = ("generator.text",)
    draws_with = "generator"
    generator: Any

    def __init__(
        self,
        generator: WordedGenerator,
        teacher: str | None = None,
        pixel: float = 0.0,
        others: float = 0.5,
        corpus: str | None = None,
        made: int = 32_768,
        **loop: Any,
    ):
        super().__init__(**loop)
        if pixel < 0 or not 0 <= others < 1 or made < 1:
            raise UserError(
                f"objective.pixel={pixel}, others={others}, made={made}: "
                "expected 0 or more, a share of the batch in [0, 1), and 1 or more"
            )
        if corpus and not Path(corpus).is_file():
            raise UserError(f"objective.corpus={corpus}: expected a text file with a caption a line")
        self.generator, self.teacher = generator, teacher
        self.latent_channels = generator.latent_channels
        self.pixel, self.others, self.corpus, self.made = pixel, others, corpus, made
        self.phases = {"text": self.text_loss}
        self.lines: list[str] = []  # captions that are not of the data
        self.ids: Any = None  # of these
        self.features: Any = None  # of the captions of the data, of these, and of the empty one: what is to be learned

    def require_sizes(self, sizes: list[Size]) -> None:
        self.canvases = canvases(self.modules())  # captions have none

    def network(self, name: str) -> nn.Module:
        return super().network(name if name.startswith("generator.") else f"generator.{name}")

    def begin(self) -> None:
        if not self.teacher:
            raise UserError("teacher=null: name the run to learn from, as in teacher=outputs/cgan")
        teacher = Teacher(self.teacher).objective
        own = self.config["objective"]["generator"]["generator"]
        require_grown(f"teacher={self.teacher}", draws(teacher)["generator"], own)
        self.generator.generator.load_state_dict(teacher.get_submodule(teacher.draws_with).state_dict())
        model, _ = instantiate(self.config["text"]["encoder"]).teacher.parts()
        words: Tensor = self.generator.text.words.weight
        tables = [each.weight for each in model.modules() if isinstance(each, nn.Embedding)]
        if known := [table for table in tables if len(table) == len(words) and table.shape[1] >= words.shape[1]]:
            words.data.copy_(principal(known[0], words.shape[1]).to(words.device) * words.data.std())
        super().begin()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pieces, own = data.text, self.generator.text.words.num_embeddings
        if own != pieces.vocabulary:
            raise UserError(
                f"text.network.vocabulary={own}, but the tokenizer of {pieces.teacher.name} has {pieces.vocabulary} "
                f"pieces: set text.network.vocabulary={pieces.vocabulary}"
            )
        self.lines = self.other_captions(pieces)
        self.ids = pieces.prepare(self.lines)
        self.features = pieces.teacher.prepare([*data.train.cache.captions, *self.lines, ""])

    def other_captions(self, pieces: Pieces) -> list[str]:
        """The same on every rank, and in every start of this run."""
        if not self.corpus:
            return made_captions(pieces.words(), self.made, self.seed)
        found = map(str.strip, Path(self.corpus).read_text(encoding="utf-8", errors="replace").splitlines())
        lines = list(dict.fromkeys(filter(None, found)))
        if not lines:
            raise UserError(f"objective.corpus={self.corpus}: expected a caption a line, found none")
        return lines

    def on_host(self, batch: Batch) -> Batch:
        """With the lesson in it: ids in the place of its own, and in `other` what is wanted."""
        batch = self.with_dropped(batch)
        ids, wanted = self.lesson(batch)
        batch = replace(batch, condition=ids, other=replace(batch, image=batch.image[:, :, :0, :0], condition=wanted))
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return batch.as_float()

    def text_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.other is not None
        ids, wanted = batch.condition, batch.other.condition
        found = self.generator.text(ids)
        tokens = feature_distance(found.tokens, wanted.tokens).mean()
        pooled = feature_distance(found.pooled, wanted.pooled).mean()
        loss, logs = tokens + pooled, {"text/tokens": tokens, "text/pooled": pooled}
        if self.pixel:
            latent = self.normal("text distillation", batch, self.latent_channels)
            with torch.no_grad():
                target = self.generator.generator(latent, wanted)
            pixel = pixel_distance(self.generator.generator(latent, found), target).mean()
            loss = loss + self.pixel * pixel
            logs["text/pixel"] = pixel
        return loss, logs | {"text/loss": loss}

    def lesson(self, batch: Batch) -> tuple[Condition, Condition]:
        """Ids, and the features that the frozen encoder has of them: of the batch's captions, or of others."""
        chosen, place = self.uniform("other captions", batch, 2).unbind(1)
        others, index = chosen < self.others, (place * len(self.lines)).long()
        first = len(self.features) - 1 - len(self.lines)
        numbers = torch.where(others, first + index, batch.caption)  # -1, of a dropped caption, is the empty one
        wanted = self.features[numbers.numpy()]
        ids = torch.where(others[:, None], self.ids[index.numpy()].tokens, batch.condition.tokens)
        wanted = wanted.cut(wanted.longest)
        return batch.condition._replace(tokens=ids[:, : wanted.longest], mask=wanted.mask), wanted


def principal(table: Tensor, count: int) -> Tensor:
    """The first principal components (M, count) of rows (M, D), at unit variance all together."""
    centred = table.double() - table.double().mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]
    projected = centred @ directions
    return (projected / projected.std()).float()


def made_captions(words: Sequence[str], count: int, seed: int) -> list[str]:
    """So many captions of 1 to `MOST_WORDS` words, in no order that means anything."""
    drawn = noise.uniform(seed, "made captions", torch.arange(count), MOST_WORDS + 1)
    numbers = (drawn[:, 1:] * len(words)).long().tolist()
    lengths = (drawn[:, 0] * MOST_WORDS).long().add(1).tolist()
    return [" ".join(words[i] for i in row[:length]) for row, length in zip(numbers, lengths, strict=True)]
