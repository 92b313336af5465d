"""A run of matching as small as the runs of tests/conftest.py, of their resolution."""

import pytest
import torch
from hydra.utils import instantiate


@pytest.fixture
def matching(tmp_path):
    words = {
        "_target_": "trainer.text.scratch.TextTransformer",
        **{"width": 16, "num_layers": 1, "num_heads": 2, "vocabulary": 64, "max_tokens": 5},
    }
    encoder = {"_target_": "trainer.text.scratch.HashTokenizer", "vocabulary": 64, "max_tokens": 5}
    seeing = {"resolution": 16, "embedding_channels": 16, "base_channels": 8, "max_channels": 16}
    objective = {
        "_target_": "trainer.objectives.matching.DualEncoder",
        "matcher": {
            "_target_": "trainer.networks.matching.Matcher",
            "image_encoder": {"_target_": "trainer.networks.matching.ImageEncoder", **seeing},
            "text_encoder": {
                "_target_": "trainer.networks.matching.TextEncoder",
                **{"text_channels": 16, "embedding_channels": 16, "text": words},
            },
        },
        "optimizer": {"matcher": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}},
        "schedule": {
            "_target_": "trainer.objectives.schedules.linear",
            "_partial_": True,
            **{"kimg": 1, "start": 0.5, "final": 0.1},
        },
        "seed": 0,
    }
    folder = tmp_path / "outputs" / "matching" / "2026-01-31_12-00-00"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    matcher = instantiate(objective, _convert_="all")
    matcher.config = {
        **{"name": "matching", "objective": objective, "text": {"encoder": encoder}},
        "data": {"resolution": 16},
    }
    content = {"state_dict": matcher.state_dict(), "global_step": 10}
    matcher.on_save_checkpoint(content)
    torch.save(content, folder / "checkpoints" / "kimg000001.000.ckpt")
    return folder
