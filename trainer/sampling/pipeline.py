"""A trained run in a notebook."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.runs import allowlist, checkpoint
from trainer.runs.export_files import PROGRAMS, is_program
from trainer.sampling import runtime, sources
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.grids import grid
from trainer.sampling.interpolation import paths
from trainer.sampling.sampler import Sampler

PROVIDED = {"tensorrt": "cuda", "openvino": "cpu", "cpu": "cpu"}  # what onnxruntime draws by -> where its inputs are


@dataclass
class Samples:
    """Images of prompts and seeds: all seeds of the first prompt, then those of the next.

    pixels: (N, 3, H, W) uint8. prompts, seeds: N each, or no seeds where latents were given. columns: images a row of
    the grid, one row a prompt.
    """

    pixels: Tensor
    prompts: list[str]
    seeds: list[int]
    columns: int

    @property
    def images(self) -> list[Image.Image]:
        return [picture(each) for each in self.pixels]

    def grid(self) -> Image.Image:
        """All images in one, with captions."""
        return grid(self.pixels, self.prompts, self.columns)


def picture(pixels: Tensor) -> Image.Image:
    """A PIL image of (3, H, W) uint8."""
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


class Pipeline:
    """Prompts to images with the EMA weights of one checkpoint; made by `trainer.load`.

    path: the checkpoint file. step: batches it had trained. config: the resolved configuration of its run.
    """

    def __init__(self, path: Path, sampler: Sampler):
        self.path, self.sampler = path, sampler
        self.objective, self.text = sampler.objective, sampler.text
        self.config: dict[str, Any] = self.objective.config
        self.step = int(sampler.objective.trained_steps)

    @property
    def exact(self) -> bool:
        """Whether one seed is one image to the bit in any company here, as of `Sampler.exact`; else to a grey level."""
        return self.sampler.exact

    def conditioned(self, **settings: Any) -> Pipeline:
        """The same network, with other captions made of these: arguments of `Conditioning`, for all that is drawn.

        >>> pipe.conditioned(compose="mean")("an elephant:0.7 + a garden:0.3").images
        >>> pipe("a red apple", enrich="smollm2").images        # a language model makes a description of it first
        >>> pipe.conditioned(guidance=3, negative="a dog").interpolate(["a cat", "a fox"]).grid()
        """
        conditioning = Conditioning(**settings)
        if conditioning.precision and is_program(self.path):
            raise UserError(
                f"precision={conditioning.precision}: {self.path} computes as it was exported; leave it out, or give "
                "the run"
            )
        return Pipeline(self.path, self.sampler.conditioned(conditioning))

    def __call__(
        self,
        prompts: str | Sequence[str],
        seeds: int | Sequence[int] = 0,
        source: Image.Image | str | Path | None = None,
        mask: Image.Image | str | Path | None = None,
        **conditioning: Any,
    ) -> Samples:
        """Every prompt with every seed. A seed is the same image each time, whatever else is drawn with it.

        The prompt of a model without text is "". source: the picture that a run of an image task starts from, of any
        size, where "" is a prompt, too; mask: as large, white where inpainting fills it. conditioning: as of
        `conditioned`.

        >>> pipe("a red star", source="photo.png", mask="mask.png").images[0]
        """
        if conditioning:
            return self.conditioned(**conditioning)(prompts, seeds, source, mask)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
        wordless = getattr(self.text, "wordless", False) or source is not None
        if not prompts or not seeds or not all(isinstance(p, str) and (wordless or p.strip()) for p in prompts):
            raise UserError(f"prompts={prompts}, seeds={seeds}: expected at least one of each, and no empty prompt")
        each_prompt = [prompt for prompt in prompts for _ in seeds]
        each_seed = seeds * len(prompts)
        if source is None:
            pixels = self.sampler(each_prompt, each_seed)
        else:
            same = [sources.read(source, mask)] * len(each_seed)
            pixels = torch.stack(sources.redraw(self.sampler, same, each_prompt, each_seed))
        return Samples(pixels, each_prompt, each_seed, columns=len(seeds))

    def interpolate(
        self, captions: str | Sequence[str], seeds: int | Sequence[int] = 0, steps: int = 8, **conditioning: Any
    ) -> Samples:
        """Rows of `steps` images: from one caption to another for each seed, or of one caption from a seed to another.

        Their ends are the images of captions and seeds. Words are averaged, pooled features and latents go along an
        arc (`trainer.sampling.features.slerp`). The samples have no seeds.
        """
        if conditioning:
            return self.conditioned(**conditioning).interpolate(captions, seeds, steps)
        names = [captions] if isinstance(captions, str) else list(captions)
        numbers = [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
        rows = list(paths(self.sampler, names, numbers, steps))
        latents, conditions, labels = zip(*rows, strict=True)
        condition = Condition.cat(conditions)
        return self.draw(torch.cat(latents), condition, list(itertools.chain(*labels)), columns=steps)

    def stream(self, prompts: Iterable[str], seeds: Iterable[int]) -> Iterator[tuple[str, int, Image.Image]]:
        """(prompt, seed, image) of pairs, batch by batch, without holding more; prompts and seeds may be endless."""
        pairs = zip(prompts, seeds, strict=False)
        while batch := list(itertools.islice(pairs, self.sampler.batch_size)):
            captions, numbers = zip(*batch, strict=True)
            for (prompt, seed), pixels in zip(batch, self.sampler(captions, numbers), strict=True):
                yield prompt, seed, picture(pixels)

    def latents(self, seeds: int | Sequence[int]) -> Tensor:
        """(N, latent_channels) of N seeds, standard normal; what lies between or nearer to 0 can be drawn as well."""
        return self.sampler.latents([seeds] if isinstance(seeds, int) else seeds)

    def condition(self, captions: str | Sequence[str]) -> Condition:
        """What the model knows of N captions; `trainer.sampling.features.mixed` makes what lies between them."""
        return self.sampler.conditions([captions] if isinstance(captions, str) else captions)

    def draw(self, latents: Tensor, condition: Condition, labels: Sequence[str] = (), columns: int = 8) -> Samples:
        """Images of latents (N, latent_channels) and conditions, one for each latent or one for all, or the reverse.

        labels: N texts to stand below the images. The samples have no seeds.
        """
        count = max(len(latents), len(condition.mask))
        if len(latents) == 1:
            latents = latents.expand(count, -1)
        if len(condition.mask) == 1:
            condition = condition.rows([0] * count)
        return Samples(self.sampler.draw(latents, condition), list(labels) or [""] * count, [], columns)


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    fixed: bool = False,
    compiled: bool = False,
    as_saved: bool = False,
    allow: Sequence[str] = (),
    draws_only: bool = False,
) -> Pipeline:
    """A pipeline from a run folder (its newest whole checkpoint) or a .ckpt file; on the GPU if there is one.

    >>> from trainer import load
    >>> pipe = load("outputs/cgan/2026-01-31_12-00-00")
    >>> pipe("a red apple", seeds=range(4)).images          # 4 PIL images
    >>> pipe(["a red apple", "a blue car"], seeds=range(8)).grid()

    fixed: as of `Sampler`. compiled: the network by torch.compile: minutes at the first full batch, then it draws
    faster; eager, and a line says so, where there is no compiler. as_saved: without what a compressed one has done to
    it after loading.
    allow: packages of your own that the run is made of; from then on this process builds what checkpoints name of them.
    draws_only: without what trained beside the network that draws, which is there sooner: for who reconstructs nothing.
    device: "tensorrt" or "openvino", too, of a model.onnx, where onnxruntime holds that.
    UserError if there is no such run, its checkpoint cannot be read, it is a program that cannot be compiled again, or
    the device is not there.
    """
    names = PROVIDED if Path(path).name == PROGRAMS["onnx"] else {}
    provider = device if device in names else None
    device = usable_device(device, names)
    allowlist.allow(allow)
    if compiled and is_program(Path(path)):
        raise UserError(f"compile=true: {path} is a program already; leave it out, or give the run")
    objective = checkpoint.load(path, device, as_saved, draws_only)
    text = instantiate(objective.config["text"]["encoder"], _convert_="all")
    if provider:
        objective.get_submodule(objective.draws_with).use(provider)
    if compiled:
        runtime.compiled(objective.get_submodule(objective.draws_with))
    return Pipeline(objective.source, Sampler(objective, text, batch_size, fixed))


def usable_device(device: str | torch.device | None, names: Mapping[Any, str] | None = None) -> torch.device:
    """The device of that name, gpu being cuda; without one the GPU if there is one. UserError if it is not there.

    names: further ones, and which devices they are.
    """
    asked = {"gpu": "cuda", **(names or {})}.get(device, device)
    try:
        found = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        known = "cpu, cuda or cuda:NUMBER, or of a model.onnx tensorrt or openvino"
        raise UserError(f"device={device}: expected {known}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: this machine has no usable GPU; leave device out or say cpu")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: this machine has {torch.cuda.device_count()} GPUs, the first is cuda:0")
    return found
