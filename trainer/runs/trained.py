"""Networks of earlier runs, frozen, that teach or judge a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.pretrained.weights import sha256
from trainer.runs import checkpoint, checkpoint_files
from trainer.size import Size

CRITICS = ("discriminator", "autoencoder.encoder")  # networks of a teacher that read images
_AT_ONCE = 256  # images or captions in memory


class Trained:
    """The objective of an earlier run with its EMA weights, in eval mode, without gradients.

    A plain object, so that an objective that keeps one does not count it among its networks or its weights.
    path: run folder, checkpoint or export.
    """

    role = "trained"  # the key of a command line that names it

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        self.path = checkpoint.newest(path)
        self.device = torch.device(device)
        self.objective = checkpoint.load(self.path, device)
        self.config: dict[str, Any] = self.objective.config

    def to(self, device: torch.device) -> None:
        self.device = device
        self.objective.to(device)

    def require(self, config: dict[str, Any]) -> None:
        """UserError unless a run of this configuration has the images and text features that this one has."""
        require_alike(config, self.config, f"{self.role}={self.path}")


class Teacher(Trained):
    """A generator to learn from, and the features that its own training left: a GAN, a VAE, whatever draws by `sample`.

    UserError if it draws nothing.
    """

    role = "teacher"

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        super().__init__(path, device)
        if not self.objective.draws_with:
            raise UserError(f"teacher={path} draws no images: give a run that does, as of cgan or cvae")
        self.latent_channels = int(self.objective.latent_channels)

    @torch.no_grad()
    def sample(self, latent: Tensor, condition: Condition) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of latents (N, latent_channels) and captions, in float32 at any precision."""
        with torch.autocast(latent.device.type, enabled=False):
            return self.objective.sample(latent, condition)

    @cached_property
    def text(self) -> dict[str, Tensor] | None:
        """Weights of the text encoder inside what draws, of all words; None where captions come to it encoded."""
        text: Any = getattr(self.objective.get_submodule(self.objective.draws_with), "text", None)
        if not hasattr(text, "words"):
            return None
        state = {key: weight for key, weight in text.state_dict().items() if not key.startswith("words.")}
        with torch.no_grad():  # a vocabulary that was cut has a row for many
            words = text.words(torch.arange(text.words.num_embeddings, device=self.device))
        return state | {"words.weight": words}

    @property
    def critic(self) -> Any:
        """Its discriminator or encoder, whose trunk `features` has learned to see such images; None if it has none."""
        modules = dict(self.objective.named_modules())
        return next((modules[name] for name in CRITICS if name in modules), None)

    @cached_property
    def stages(self) -> list[nn.Module]:
        """What halves its maps, of all trunks of the critic; none where it has no such, or sees no pixels."""
        if self.critic is None or hasattr(self.critic, "perceive"):
            return []
        return [down for module in self.critic.modules() for down in getattr(module, "downs", ())]

    def features(self, image: Tensor) -> list[Tensor]:
        """Maps (N, C, H, W) behind each of the `stages`, with gradients to the images (N, 3, H, W)."""
        with record_outputs(self.stages) as maps:
            self.critic.features(image)
        return maps


class Matcher(Trained):
    """The matcher of images and captions of a run of objective=matching, to judge what others draw or to teach them.

    UserError if the run has none. name: of its experiment. sha256: of the checkpoint's files.
    """

    role = "matcher"
    resizer = "none"

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        super().__init__(path, device)
        if not isinstance(getattr(self.objective, "matcher", None), nn.Module):
            raise UserError(f"{path} has no matcher: give a run of experiment=matching")
        self.name = str(self.config["name"])
        self.sha256 = checkpoint_files.content_digest(self.path)

    @cached_property
    def encoder(self) -> Any:
        """The text encoder that it was trained with: captions -> Condition."""
        return instantiate(self.config["text"]["encoder"], _convert_="all")

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Unit vectors (N, D) of images (N, 3, H, W) uint8 at the matcher's own resolution."""
        parts = (part.to(self.device).float().div(127.5).sub(1) for part in images.split(_AT_ONCE))
        return torch.cat([self.vectors(part) for part in parts])

    def vectors(self, images: Tensor) -> Tensor:
        """The same of images in [-1, 1], with gradients to them."""
        own, found = Size.of(self.config["data"]["resolution"]), Size.of(images.shape[2:])
        if found != own:
            raise UserError(unlike(f"matcher={self.path}", "data.resolution", own.resolution, found.resolution))
        return nn.functional.normalize(self.objective.matcher.image(images)[0])

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Unit vectors (M, D) of captions."""
        parts = [captions[i : i + _AT_ONCE] for i in range(0, len(captions), _AT_ONCE)]
        vectors = [self.objective.matcher.text(self.encoder(part).to(self.device))[0] for part in parts]
        return nn.functional.normalize(torch.cat(vectors))


class Tokenizer(Trained):
    """The autoencoder of a run of objective=tokenizer, whose codes or latents are learned. UserError if it has none."""

    role = "tokenizer"

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        super().__init__(path, device)
        self.network: Any = getattr(self.objective, "autoencoder", None)
        if not hasattr(self.network, "bottleneck"):
            raise UserError(f"tokenizer={path} has no codes: give a run of experiment=fsq, vqvae or vqgan")

    @classmethod
    def into(cls, network: nn.Module, path: str | None, config: dict[str, Any]) -> None:
        """Gives `network` the weights of the run `path`; UserError unless images and text are those of `config`."""
        if not path:
            raise UserError("objective.tokenizer: name the run whose codes are learned, as in tokenizer=outputs/fsq")
        earlier = cls(path)
        earlier.require(config)
        network.load_state_dict(earlier.network.state_dict())


def require_alike(config: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """UserError, with the key that differs, unless two runs read captions and draw images alike."""
    for group, key in (("data", "resolution"), ("text", "encoder")):
        one, two = (each.get(group, {}).get(key) for each in (config, other))
        if portable(one) != portable(two):
            raise UserError(unlike(name, f"{group}.{key}", two, one))


def portable(node: Any) -> Any:
    """A part of a configuration but for what is no matter: where it keeps its cache, and where its file lies."""
    if not isinstance(node, dict):
        return node
    path = node.get("path")
    file = {"path": sha256(Path(path))} if path and Path(path).is_file() else {}
    return {key: value for key, value in (node | file).items() if key != "cache_dir"}


def unlike(name: str, key: str, own: object, found: object) -> str:
    return f"{name} has {key}={own}, and this run {found}: neither compared nor taught; give one of the same {key}"


@contextmanager
def record_outputs(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that fills with what these modules return."""
    found: list[Tensor] = []
    hooks = [child.register_forward_hook(lambda *call: found.append(call[2])) for child in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
