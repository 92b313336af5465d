"""Small generators of every family, with what they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.batch import Condition
from trainer.compression import structure

TEXT, LATENT = 24, 8
FAMILIES = ["dcgan", "dcgan-nearest", "residual", "r3gan", "transformer"]
DRAWING = [*FAMILIES, "stylegan2", "attngan", "progressive"]  # all
OF_FAMILY: dict[str, dict[str, int]] = {  # latents of one length for all, and more than one stage
    "stylegan2": {"noise_up_to": 0},
    "attngan": {"latent_channels": LATENT - 3, "caption_channels": 3, "resolution": 32},
}
CONVOLUTIONAL = {"base_channels": 16, "max_channels": 48}
TRANSFORMER = {"width": 48, "depth": 2, "num_heads": 2}


def node_of(family: str, resolution: int | list[int] = 16, **sizes: Any) -> dict[str, Any]:
    family, _, upsampling = family.partition("-")
    return {
        "_target_": f"trainer.networks.{family}.Generator",
        "resolution": resolution,
        "latent_channels": LATENT,
        "text_channels": TEXT,
        "text": {"_target_": "torch.nn.Identity"},
        "style_channels": 32,
        **(TRANSFORMER if family == "transformer" else CONVOLUTIONAL),
        **({"upsampling": upsampling} if upsampling else {}),
        **OF_FAMILY.get(family, {}),
        **sizes,
    }


def make(node: dict[str, Any]) -> nn.Module:
    """Random weights everywhere: what starts at zero would hide a mistake."""
    torch.manual_seed(0)
    network = instantiate(node, _convert_="all").eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    return network.to(memory_format=torch.channels_last)


@pytest.fixture(params=[(family, resolution) for family in FAMILIES for resolution in (16, [24, 32])], ids=str)
def generator(request: pytest.FixtureRequest) -> tuple[dict[str, Any], nn.Module]:
    """A node and the generator built from it."""
    node = node_of(*request.param)
    return node, make(node)


@pytest.fixture
def inputs() -> list[tuple[torch.Tensor, Condition]]:
    """Two batches of 4 latents and captions of different lengths."""
    random = torch.Generator().manual_seed(1)

    def batch() -> tuple[torch.Tensor, Condition]:
        mask = torch.arange(6)[None] < torch.tensor([1, 3, 6, 4])[:, None]
        tokens = torch.randn(4, 6, TEXT, generator=random)
        condition = Condition(tokens, mask, torch.randn(4, TEXT, generator=random))
        return torch.randn(4, LATENT, generator=random), condition

    return [batch(), batch()]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., nn.Module]:
    """`saved(node, original, network)`: the network as it comes back from its files."""

    def again(original_node: dict[str, Any], original: nn.Module, network: nn.Module) -> nn.Module:
        weights = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(weights, tmp_path / "model.safetensors")
        node = json.loads(json.dumps(structure.node(original_node, original, network)))
        back = instantiate(node, _convert_="all").eval().requires_grad_(False)
        back.load_state_dict(load_file(tmp_path / "model.safetensors"))
        return back.to(memory_format=torch.channels_last)

    return again
