"""What a generator may be rewarded for: images and the numbers of their captions to a number each, higher is better.

A reward is frozen, read or fitted when a training starts, and in no checkpoint: what was trained by it draws without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import preferences
from trainer.data.scenes import Scene, Thing
from trainer.errors import UserError
from trainer.losses.preference import fit, held_out_accuracy
from trainer.process.progress import say
from trainer.runs.scenes_probe import label, scenes_probe
from trainer.runs.trained import Matcher, unlike
from trainer.size import Size


class Reward(Protocol):
    """How a caption and an image go together, or how good the image looks, differentiable by the image."""

    def prepare(self, data: Any, device: torch.device) -> None:
        """Reads what it needs. data: the `DataModule` whose captions are meant."""

    def __call__(self, image: Tensor, caption: Tensor) -> Tensor:
        """(N,) float32 of images (N, 3, H, W) in [-1, 1] and the numbers (N,) of their captions, none below 0."""


class Matching:
    """log P(c | x) in nats: how surely a matcher finds an image's caption among others of the data.

    P(c | x) = exp(gamma3 cos(v(x), t(c))) / sum_k exp(gamma3 cos(v(x), t(c_k))) over c and `candidates` captions of the
    data, evenly spread (DAMSM's sentences, Xu et al. 2018, eq. 11). matcher: run of experiment=matching, whose text
    encoder reads the captions, so that the generator may read them by another one. UserError if it is of another size.
    """

    def __init__(self, matcher: str | None, candidates: int = 1000):
        if not matcher:
            raise UserError("matcher=null: name the run that rewards, as in matcher=outputs/matching")
        self.run, self.candidates = matcher, candidates

    def prepare(self, data: Any, device: torch.device) -> None:
        self.matcher = Matcher(self.run, device)
        if Size.of(own := self.matcher.config["data"]["resolution"]) != Size.of(data.resolution):
            raise UserError(unlike(f"matcher={self.run}", "data.resolution", own, data.resolution))
        captions = data.train.cache.captions
        self.texts = self.matcher.captions(captions)
        chosen = np.linspace(0, len(captions) - 1, min(self.candidates, len(captions)), dtype=np.int64)
        self.others = torch.from_numpy(chosen).to(device)
        self.gamma3 = float(self.matcher.objective.gamma3)

    def __call__(self, image: Tensor, caption: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            own = normalize(self.matcher.objective.matcher.image(image.float())[0])
            scores = self.gamma3 * own @ self.texts[self.others].T
            right = self.gamma3 * (own * self.texts[caption]).sum(1)
        scores = scores.masked_fill(self.others == caption[:, None], -torch.inf)
        return right - torch.cat([right[:, None], scores], 1).logsumexp(1)


class Attributes:
    """log P(scene | x) in nats: how surely the probe of scenes of one object reads what the caption says.

    A sum over what it reads: colour, shape and size at each place, and the background. UserError for other data than
    scenes of one object; captions of several leave their places open.
    """

    def prepare(self, data: Any, device: torch.device) -> None:
        if getattr(data.source, "max_objects", 0) != 1:
            raise UserError("objective.reward: the probe reads scenes of one object, as data=shapes_single has")
        self.probe = scenes_probe(data.resolution, 1, data.cache_dir)[0].to(device).requires_grad_(False)
        cache = data.train.cache
        self.labels = torch.zeros(len(cache.captions), len(self.probe.num_values), dtype=torch.int64)
        starts, stops = cache.caption_starts[data.train.indices], cache.caption_starts[data.train.indices + 1]
        for start, stop, told in zip(starts, stops, data.train.attributes, strict=True):
            scene = Scene(told["background"], tuple(Thing(**words) for words in told["objects"]))
            self.labels[cache.caption_ids[start:stop]] = torch.tensor(label(scene))
        self.labels = self.labels.to(device)

    def __call__(self, image: Tensor, caption: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            logits = self.probe((image.float() + 1) * 127.5)
            wanted = self.labels[caption].unbind(1)
            read = [each.log_softmax(1).gather(1, value[:, None]) for each, value in zip(logits, wanted, strict=True)]
        return torch.cat(read, 1).sum(1)


class Preference:
    """w . f(x) in nats: by how much an image would be preferred to the average one of a file of pairs.

    f: means of a frozen backbone's maps, at mean 0 and deviation 1 over the pictures. w: fitted at the start so that
    P(x is better than y) = sigmoid(w . f(x) - w . f(y)) (Bradley & Terry 1952). Captions are not read.
    pairs: JSON lines {"better": "a.png", "worse": "b.png"}, with paths beside the file. backbone: a function that loads
    a network with `see`; another one then has to judge. strength: of the penalty on |w|^2.
    """

    def __init__(self, pairs: str | None, backbone: Callable[[], Any], strength: float = 0.01):
        if not pairs:
            raise UserError('objective.reward.pairs=null: name a file of lines {"better": "a.png", "worse": "b.png"}')
        self.pairs, self.backbone, self.strength = pairs, backbone, strength

    def prepare(self, data: Any, device: torch.device) -> None:
        self.network = self.backbone().to(device)
        pictures, better, worse = preferences.read(self.pairs, data.resolution)
        with torch.no_grad():
            parts = [self.features(part.to(device).float() / 127.5 - 1) for part in pictures.split(64)]
        features = torch.cat(parts).double().cpu()
        self.mean, self.std = features.mean(0).float(), features.std(0).clamp(min=1e-6).float()
        features = (features - self.mean) / self.std
        differences = features[better] - features[worse]
        self.weight = fit(differences, self.strength).float().to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        said = f"{len(better)} pairs of {len(pictures)} pictures, of which"
        say(f"{self.pairs}: {said} {held_out_accuracy(differences, self.strength):.0%} are ordered by the other pairs")

    def features(self, image: Tensor) -> Tensor:
        """(N, D) float32."""
        return torch.cat([each.float().mean((2, 3)) for each in self.network.see(image.float())], 1)

    def __call__(self, image: Tensor, caption: Tensor) -> Tensor:
        return ((self.features(image) - self.mean) / self.std) @ self.weight
