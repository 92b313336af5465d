"""Runs of small generators, by a frozen encoder's features or by ids, their exports, and processes without packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.text.conftest import save_tiny_model

IDENTITY = {"_target_": "torch.nn.Identity"}
WIDTH, TOKENS = 16, 24
TRANSFORMER = {
    "_target_": "trainer.text.scratch.TextTransformer",
    **{"width": WIDTH, "num_layers": 1, "num_heads": 2, "vocabulary": 64, "max_tokens": TOKENS},
}
HASHES = {"_target_": "trainer.text.scratch.HashTokenizer", "vocabulary": 64, "max_tokens": TOKENS}


def save_run(folder: Path, family: str, encoder: dict[str, Any], text: dict[str, Any], **sizes: int) -> Path:
    """A checkpoint of a GAN of 16 x 24 pixels whose images are far from grey."""
    import torch
    from hydra.utils import instantiate

    torch.manual_seed(0)
    small = {"resolution": [16, 24], "text_channels": WIDTH, "text": text}
    small |= sizes or {"base_channels": 8, "max_channels": 16}
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    objective = {
        "_target_": "trainer.objectives.gan.GAN",
        "generator": {"_target_": f"trainer.networks.{family}.Generator", "latent_channels": 8, **small},
        "discriminator": {"_target_": f"trainer.networks.{family}.Discriminator", **small},
        "loss": {"_target_": "trainer.losses.adversarial.NonSaturating"},
        "optimizer": {"generator": adam, "discriminator": adam},
        "schedule": {
            "_target_": "trainer.objectives.schedules.linear",
            "_partial_": True,
            "kimg": 1,
            "start": 0.5,
            "final": 0.1,
        },
        "seed": 0,
    }
    source = {"_target_": "trainer.data.shapes.Shapes", "num_images": 100}
    gan = instantiate(objective, _convert_="all")
    for name, parameter in gan.generator.named_parameters():
        if name.startswith("image."):
            parameter.data.mul_(8)
    gan.config = {
        "name": "small", "objective": objective, "text": {"encoder": encoder},
        "data": {"resolution": [16, 24], "source": source}, "callbacks": {"mine": 1},
    }  # fmt: skip
    gan.images_seen = 1500
    gan.ema = {f"generator.{k}": p * 1.25 for k, p in gan.generator.state_dict().items()}
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": gan.state_dict(), "global_step": 30}
    gan.on_save_checkpoint(content)
    torch.save(content, folder / "checkpoints" / "kimg000001.500.ckpt")
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """pretrained("bert") is the node of a tiny frozen encoder of this family."""

    def node(kind: str) -> dict[str, Any]:
        folder = save_tiny_model("bert" if kind == "minilm" else kind, tmp_path_factory.mktemp(kind))
        target = {"_target_": "trainer.text.pretrained.Pretrained", "name": kind, "path": str(folder)}
        return {**target, "width": WIDTH, "max_tokens": TOKENS, "cache_dir": str(tmp_path_factory.mktemp("text"))}

    return node


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, pretrained: Callable[[str], dict[str, Any]]) -> Path:
    """A DCGAN that reads the features of a frozen encoder."""
    return save_run(tmp_path_factory.mktemp("features") / "run", "dcgan", pretrained("minilm"), IDENTITY)


@pytest.fixture(scope="session")
def run_of_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual generator with word attention that trains its own text encoder."""
    return save_run(tmp_path_factory.mktemp("ids") / "run", "residual", HASHES, TRANSFORMER)


def made(run: Path, out: Path, *arguments: str) -> Path:
    """The folder that the command line makes."""
    from trainer.export import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["export", f"checkpoint={run}", f"out={out}", *arguments])
        main()
    return out


@pytest.fixture(scope="session")
def exports(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(run, tmp_path_factory.mktemp("export") / "out", "formats=[onnx,torch_export]", "include_text=false")


@pytest.fixture(scope="session")
def exports_of_ids(run_of_ids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(run_of_ids, tmp_path_factory.mktemp("export") / "out", "formats=[onnx,torch_export]")


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ImportError(name + " is not to be had here")
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def without() -> Callable[..., str]:
    """`without({"torch"}, code, cwd)` runs code in a process that cannot import these packages; what it prints."""

    def start(packages: set[str], code: str, cwd: Path) -> str:
        code = REFUSE.format(packages=packages) + code
        done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start
