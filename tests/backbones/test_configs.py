import importlib
import inspect
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

FOLDER = Path(__file__).parents[2] / "conf" / "backbone"
CONFIGS = {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize("name", CONFIGS)
def test_says_all_that_its_loader_takes(name):
    options = dict(CONFIGS[name])
    module, _, function = options.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    defaults = {key: each.default for key, each in parameters.items()}
    assert options == defaults | ({"variant": 2} if name == "effnet_lite2" else {})


@pytest.mark.parametrize(("config", "name", "width"), [("lite0", "effnet", 320), ("lite2", "effnet2", 352)])
def test_those_that_are_installed(config, name, width):
    backbone = instantiate(CONFIGS[f"effnet_{config}"])
    assert (backbone.name, backbone.width, backbone.resizer) == (name, width, "bilinear 64")
