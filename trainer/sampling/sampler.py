"""Captions and seeds to images, for grids, metrics and users alike: one seed is one image, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer import noise
from trainer.batch import Condition
from trainer.errors import UserError
from trainer.sampling.batch_invariance import FULL, TOKENS, SameBits, pad_rows, padded_batch_size
from trainer.sampling.conditioned import Conditioned
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.runtime import beside, device_of, graphs_of, is_compiled
from trainer.tasks.examples import examples, source_size

SEED = 0  # a sampling seed means the same latent in every run, whatever seed that was trained with
WINDOW = 1024  # rows that are ordered by the length of their captions, so that a batch has few pads
REMEMBERED = 4096  # captions
PLAIN = Conditioning()
NO_TASK = "source: this run draws from captions alone; leave it out, or give a run of inpainting, denoising, ..."
NO_SOURCE = "a run of an image task starts from a picture: source=photo.png; from none, too, after task.source_dropout"


class Sampler:
    """Draws from an objective on the device it is on, in eval mode, with its EMA weights where it has any.

    text: the text encoder, captions -> Condition; a caption's features must not depend on those beside it.
    batch_size: images at a time; if None 16 on a CPU, 64 on a GPU and where onnxruntime draws as many. Caption and seed
    are one image in any company, on CPUs at any batch_size too: to the bit where `exact`, else to a grey level.
    fixed: the network sees full batches of exactly batch_size and nothing else is done, as always on a GPU. Another
    size chooses kernels that round otherwise (by 1e-6).
    A compiled network sees full batches, too, since it is compiled for each size anew; but on a CPU, unless `fixed`,
    captions are cut to a multiple of 16 tokens, and up to half a batch is drawn by its layers as they are, which nobody
    waits for. As many as onnxruntime draws go there.
    conditioning: what is made of captions, and how they guide. UserError if this objective cannot be drawn so.
    """

    def __init__(
        self,
        objective: Any,
        text: Callable[[Sequence[str]], Condition],
        batch_size: int | None = None,
        fixed: bool = False,
        conditioning: Conditioning = PLAIN,
    ):
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected 1 or more images at a time")
        if conditioning != PLAIN:
            conditioning.require(objective.config, getattr(text, "wordless", False))
        self.objective, self.text, self.conditioning = objective, text, conditioning
        self.device = device_of(objective)
        self.network: Any = objective.get_submodule(objective.draws_with)
        self._modules = [*self.network.modules()]
        on_cpu, program = self.device.type == "cpu", beside(self.network)
        self.batch_size = batch_size or (FULL if on_cpu and (program is None or program.max_batch < 64) else 64)
        self.fixed = fixed or not on_cpu or any(map(is_compiled, objective.modules()))
        self._asked_fixed = fixed
        self._cuts = self.fixed and on_cpu and not fixed  # captions of a compiled network, to a multiple of `TOKENS`
        self._graphs = graphs_of(self.network) if on_cpu and not fixed else None
        self._draw = Conditioned(objective, self.network, text, conditioning, self.device)
        self._program = program if on_cpu and self._draw.plain else None
        self._same_bits = SameBits(objective, self._draw, always=getattr(self.network, "chooses", False))
        self._conditions: dict[str, Condition] = {}  # the newest last
        self._others: dict[Conditioning, Sampler] = {}

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], sources: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) uint8 on the objective's device: image i of caption i and seed i (any int64).

        sources: (N, C, h, w) of a run of an image task, one for each image; UserError without them if it needs them.
        """
        if len(captions) != len(seeds) or not captions:
            raise UserError(f"{len(captions)} captions and {len(seeds)} seeds: expected a seed a caption, at least one")
        if len(captions) <= WINDOW:
            condition = self.conditions(captions)
            return self.draw(self.latents(seeds), condition if sources is None else condition._replace(source=sources))
        given = self._given(sources, len(captions))

        def inputs(part: slice) -> tuple[Tensor, Condition]:
            condition = self.conditions(captions[part])
            return self.latents(seeds[part]), condition if given is None else condition._replace(source=given[part])

        return self._in_parts(len(captions), inputs)

    @property
    def task(self) -> Any:
        """What a source is (`trainer.tasks`); None of text to image."""
        return getattr(self.network, "task", None)

    def draw(self, latents: Tensor, condition: Condition) -> Tensor:
        """The same of latents (N, latent_channels) and N conditions that need not be of any seed or caption."""
        count, held = latents.shape[0], condition.mask.shape[0]
        if count != held or not count:
            raise UserError(f"{count} latents and {held} conditions: expected one of each, at least one")
        if self.task is not None or condition.source is not None:
            condition = condition._replace(source=self._given(condition.source, count))
        few = self._by_program(latents, condition)
        return few if few is not None else self._in_parts(count, lambda part: (latents[part], condition.rows(part)))

    @property
    def needs_source(self) -> bool:
        """Whether nothing is drawn from captions alone."""
        return self.task is not None and not self.task.source_dropout

    def _given(self, sources: Tensor | None, count: int) -> Tensor | None:
        """Sources as the network reads them."""
        if (self.task is None and sources is not None) or (sources is None and self.needs_source):
            raise UserError(NO_SOURCE if sources is None else NO_TASK)
        if sources is not None:
            return self.task.marked(sources)
        if self.conditioning.source_guidance is not None:
            raise UserError("source_guidance: of a source, and none is given: source=photo.png, or leave it out")
        return None if self.task is None else self.task.nothing(count, source_size(self.network))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """What an autoencoder keeps of images (N, 3, H, W) uint8 with these captions, the same on its device."""
        given = self.conditions(captions)
        with self._evaluating(), self.objective.ema_weights(), self.conditioning.computing(self.device):
            kept = []
            for part in (slice(i, i + self.batch_size) for i in range(0, len(images), self.batch_size)):
                values = images[part].to(self.device).float().div(127.5).sub(1)
                kept.append(self.objective.reconstruct(values, given.rows(part).to(self.device)))
            return as_pixels(torch.cat(kept))

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """(N, latent_channels) standard normal, on the CPU and so the same on every device."""
        positions = torch.from_numpy(np.array([*seeds], np.int64))
        return noise.normal(SEED, "sample", positions, self.objective.latent_channels)

    def conditions(self, captions: Sequence[str]) -> Condition:
        """Of N captions, on the CPU. Those not seen lately are encoded together."""
        distinct = dict.fromkeys(captions)
        known = {caption: self._conditions.pop(caption) for caption in distinct if caption in self._conditions}
        if missing := [caption for caption in distinct if caption not in known]:
            encoded = self.conditioning(self.text, missing)
            rows = [encoded.rows(slice(row, row + 1)) for row in range(len(missing))] if missing[1:] else [encoded]
            known |= zip(missing, rows, strict=True)
        self._conditions |= known
        while len(self._conditions) > REMEMBERED:
            del self._conditions[next(iter(self._conditions))]
        return Condition.cat([known[caption] for caption in captions])

    def conditioned(self, conditioning: Conditioning) -> Sampler:
        """One that draws with the same network, and remembers what it learned of it; the same one each time."""
        if conditioning == self.conditioning:
            return self
        if conditioning not in self._others:
            given = self.objective, self.text, self.batch_size, self._asked_fixed
            self._others[conditioning] = Sampler(*given, conditioning)
        return self._others[conditioning]

    @property
    def exact(self) -> bool:
        """Whether an image's bits are the same in any company and at any batch size; else it is so to a grey level.

        Tried with few images, for this network, machine and number of threads, and for the captions drawn so far; never
        where batches are fixed or another runtime draws full ones: another size of them may round otherwise.
        """
        if self.fixed or getattr(beside(self.network), "max_batch", 0) >= FULL:
            return False
        for count in (1, 2, 4, 8):
            self(["a"] * count, range(count), examples(self.network, torch.arange(count)))
        return self._same_bits.exact and not (self._program and self._program.draws)

    def keep_bits(self) -> None:
        """From now on, whatever it costs: small batches are drawn as full ones where there is no other way."""
        self._same_bits.always, self._program, self._graphs, self._cuts = True, None, None, False
        if program := beside(self.network):
            program.max_batch = min(program.max_batch, FULL - 1)

    @torch.no_grad()
    def _in_parts(self, count: int, inputs: Callable[[slice], tuple[Tensor, Condition]]) -> Tensor:
        with self._evaluating() as changing, self.objective.ema_weights():
            parts = (slice(i, min(i + WINDOW, count)) for i in range(0, count, WINDOW))
            return torch.cat([self._ordered(*inputs(part), changing=changing) for part in parts])

    @contextmanager
    def _evaluating(self) -> Iterator[bool]:
        """Within it, what draws is in eval mode; whether it was training."""
        training = [module for module in self._modules if module.training]
        for module in training:
            module.training = False
        try:
            yield bool(training)
        finally:
            for module in training:
                module.training = True

    def _ordered(self, latents: Tensor, condition: Condition, changing: bool) -> Tensor:
        size = self.batch_size
        if changing and not self.fixed:  # what was measured with weights of a while ago may not hold
            size = padded_batch_size(max(size, FULL))
        if len(latents) <= size:
            return self._batch(latents, condition, size, changing)
        lengths = (condition.mask.sum(1) + TOKENS - 1) // TOKENS
        ordered = (self.fixed and not self._cuts) or bool((lengths == lengths[0]).all())
        if not ordered:
            order = lengths.argsort(stable=True)
            latents, condition = latents[order], condition.rows(order)
        parts = [slice(i, i + size) for i in range(0, len(latents), size)]
        drawn = torch.cat([self._batch(latents[part], condition.rows(part), size, changing) for part in parts])
        return drawn if ordered else drawn[order.argsort().to(self.device)]

    @torch.inference_mode()
    def _batch(self, latents: Tensor, condition: Condition, size: int, changing: bool) -> Tensor:
        if not changing and (few := self._by_program(latents, condition)) is not None:
            return few
        rows = latents.to(self.device), condition.to(self.device)
        if self._graphs and not changing and len(latents) <= size // 2:
            with self._graphs.off():
                return as_pixels(self._same_bits(*rows))
        if self._cuts:
            cut = rows[1].cut(-(-rows[1].longest // TOKENS) * TOKENS)
            rows = rows[0], cut.map(Tensor.contiguous)  # other strides would be compiled for anew
        images = self._draw(*pad_rows(*rows, size)) if changing or self.fixed else self._same_bits(*rows)
        return as_pixels(images[: len(latents)])

    def _by_program(self, latents: Tensor, condition: Condition) -> Tensor | None:
        """Pixels as another runtime draws so many, without what PyTorch needs around it; None where it does not."""
        program, count = self._program, latents.shape[0]
        if program is None or self.network.training or count > program.max_batch or count > self.batch_size:
            return None
        if self._asked_fixed and count < self.batch_size:
            return None
        with self.objective.ema_weights():
            images: Tensor | None = program.pixels(latents, condition)
        return images


def as_pixels(images: Tensor) -> Tensor:
    """uint8 of images in [-1, 1], to the nearest level."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
