"""What did an image task before networks did: the baselines beside which its figures stand, on the same sources."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.evaluation.attributes import Attributes
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import Measure, Study, place, run_each
from trainer.evaluation.similarity import Similarity
from trainer.process.distribution import install
from trainer.process.progress import say
from trainer.report import table as report
from trainer.runs.results import Figure
from trainer.sampling.sampler import as_pixels
from trainer.tasks.colorization import Colorization
from trainer.tasks.denoising import Denoising
from trainer.tasks.enhancement import Enhancement
from trainer.tasks.inpainting import Inpainting
from trainer.tasks.restoration import Restoration
from trainer.tasks.super_resolution import SuperResolution
from trainer.tasks.translation import Translation

SHOWN = re.compile(r"fd_|psnr|ssim|lpips|distance_|attributes_scene")  # metrics of the table
TIMED = 256  # images
COMPARED = (Fidelity, Attributes, Similarity)  # measures that ask for nothing but pictures
Method = Callable[[np.ndarray, Any], np.ndarray]  # a source (h, w, C) in [-1, 1], its task -> (H, W, 3) in [0, 1]


def unit(source: np.ndarray) -> np.ndarray:
    """Its colours in [0, 1]."""
    return np.clip((source[..., :3] + 1) / 2, 0, 1)


def biharmonic(source: np.ndarray, task: Any) -> np.ndarray:
    from skimage.restoration import inpaint_biharmonic

    return inpaint_biharmonic(unit(source), source[..., 3] > 0, channel_axis=-1)


def telea(source: np.ndarray, task: Any) -> np.ndarray:
    """Fast marching (Telea 2004), with a radius of 3 pixels."""
    import cv2

    pixels, hole = (255 * unit(source)).round().astype(np.uint8), (source[..., 3] > 0).astype(np.uint8)
    return cv2.inpaint(pixels, hole, 3, cv2.INPAINT_TELEA) / 255


def lanczos(source: np.ndarray, task: Any) -> np.ndarray:
    image = Image.fromarray((255 * unit(source)).round().astype(np.uint8))
    size = image.width * task.scale, image.height * task.scale
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)) / 255


def total_variation(source: np.ndarray, task: Any) -> np.ndarray:
    """Chambolle 2004, weighted by the noise that the picture seems to have."""
    from skimage.restoration import denoise_tv_chambolle, estimate_sigma

    sigma = float(estimate_sigma(unit(source), channel_axis=-1, average_sigmas=True))
    return denoise_tv_chambolle(unit(source), weight=max(sigma, 1e-3), channel_axis=-1)


def non_local_means(source: np.ndarray, task: Any) -> np.ndarray:
    """Buades et al. 2005, for the noise that the picture seems to have."""
    from skimage.restoration import denoise_nl_means, estimate_sigma

    sigma = float(estimate_sigma(unit(source), channel_axis=-1, average_sigmas=True))
    return denoise_nl_means(
        unit(source), patch_size=5, patch_distance=6, h=0.8 * max(sigma, 1e-3), sigma=sigma, channel_axis=-1
    )


def grey_world(source: np.ndarray, task: Any) -> np.ndarray:
    """Each channel stretched between its 1st and 99th percentile (the cast goes with it)."""
    value = unit(source)
    low, high = np.percentile(value, (1, 99), axis=(0, 1))
    return np.clip((value - low) / np.maximum(high - low, 1e-3), 0, 1)


def equalized(source: np.ndarray, task: Any) -> np.ndarray:
    """Contrast-limited adaptive histogram equalization."""
    from skimage.exposure import equalize_adapthist

    return equalize_adapthist(unit(source))


METHODS: dict[type, dict[str, tuple[Method, str]]] = {  # of a task: name -> method, and the packages it needs
    Inpainting: {"biharmonic": (biharmonic, "skimage"), "telea": (telea, "cv2")},
    SuperResolution: {"lanczos": (lanczos, "PIL")},
    Denoising: {"tv": (total_variation, "skimage pywt"), "nl_means": (non_local_means, "skimage pywt")},
    Colorization: {},
    Enhancement: {"stretched": (grey_world, "numpy"), "equalized": (equalized, "skimage")},
    Restoration: {"tv": (total_variation, "skimage pywt"), "nl_means": (non_local_means, "skimage pywt")},
    Translation: {},
}
# what a task's start is called
STARTS: dict[type, str] = {SuperResolution: "bicubic", Colorization: "grey", Translation: "copied"}


class Classical:
    """Stands in a study for its sampler: sample i is what a method makes of source i, whatever caption and seed."""

    def __init__(self, method: Method | None, study: Study):
        self.method, self.task, self.device = method, study.sampler.task, study.device
        self.conditioning = study.sampler.conditioning
        self.seconds, self.count = 0.0, 0

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], sources: Tensor) -> Tensor:
        began = time.perf_counter()
        if self.method is None:
            drawn = as_pixels(self.task.start(sources))
        else:
            arrays = sources.permute(0, 2, 3, 1).cpu().numpy()
            made = np.stack([self.method(each, self.task) for each in arrays])
            drawn = as_pixels(torch.from_numpy(2 * made - 1).permute(0, 3, 1, 2))
        self.seconds, self.count = self.seconds + time.perf_counter() - began, self.count + len(drawn)
        return drawn.to(self.device)


def mean_image(images: Any) -> Method:
    """Whatever the source, the mean of these images (M, H, W, 3) uint8: what a network that learns nothing may draw."""
    parts = (images[number : number + 256] for number in range(0, len(images), 256))
    mean = sum(np.asarray(part).sum(0, dtype=np.float64) for part in parts) / (255 * len(images))
    return lambda source, task: mean


def compare(
    study: Study, found: Sequence[Figure], measures: Sequence[Measure], train: Any = None
) -> tuple[list[Figure], str]:
    """Figures of each classical method for the study's task, named METRIC_METHOD, and a table of them and the run's.

    found: the run's, by `measures`, of which those count that need pictures alone. train: images (M, H, W, 3) uint8 of
    training; beside a translation stands their mean. All ranks call this. A method whose package is missing is left
    out, and a line says so.
    """
    compared = [measure for measure in measures if isinstance(measure, COMPARED)]
    own = {figure.metric: figure for figure in found if SHOWN.match(figure.metric)}
    if not own:
        return [], ""
    task = type(study.sampler.task)
    methods: dict[str, tuple[Method | None, str]] = {STARTS.get(task, "untouched"): (None, "torch"), **METHODS[task]}
    if task is Translation and train is not None:
        methods["mean"] = (mean_image(train), "numpy")
    figures: list[Figure] = []
    rows = [("", *own, "images/s"), row(str(found[0].checkpoint), own.values(), speed(study))]
    for name, (method, packages) in methods.items():
        if missing := [each for each in packages.split() if importlib.util.find_spec(each) is None]:
            if place()[0] == 0:
                say(f"{name} is left out: {missing[0]} is not installed; {install('classical')}")
            continue
        sampler: Any = Classical(method, study)
        again = [figure for some in run_each(replace(study, sampler=sampler), compared) for figure in some]
        shown = [figure for figure in again if figure.metric in own]
        figures += [replace(figure, metric=f"{figure.metric}_{name}") for figure in shown]
        rows.append(row(name, shown, sampler.count / max(sampler.seconds, 1e-9)))
    return figures, report.plain(rows[0], rows[1:], left=(0,))


def row(name: str, figures: Iterable[Figure], images_per_second: float) -> tuple[str, ...]:
    values = (f"{f.value:.2%}" if f.metric.startswith("attributes") else f"{f.value:.4g}" for f in figures)
    return (name, *values, f"{images_per_second:.3g}")


def speed(study: Study) -> float:
    """Images a second of the run's sampler, for captions that it knows."""
    numbers = range(min(TIMED, study.num_images))
    given = [study.captions[i] for i in numbers], [study.seed + i for i in numbers], study.sources(numbers)
    began = time.perf_counter()
    study.sampler(*given)
    return len(numbers) / (time.perf_counter() - began)
