"""Every conf/text file builds its encoder and its network without loading a model."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "text").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_text_config_builds(path: Path):
    text = OmegaConf.create({"text": OmegaConf.load(path)}).text
    encoder, network = instantiate(text.encoder), instantiate(text.network)
    assert encoder.max_tokens == text.max_tokens
    if path.stem in ("label", "none"):
        assert encoder(["cat"]).pooled.shape == (1, text.width)
        return
    if path.stem in ("scratch", "pieces"):
        assert network(encoder(["a red apple"])).pooled.shape == (1, text.width)
    else:
        assert isinstance(network, torch.nn.Identity)
        assert encoder.width == text.width
        assert encoder.name == path.stem
