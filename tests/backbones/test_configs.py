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
    assert options == {key: each.default for key, each in parameters.items()}


def test_the_backbone_that_is_installed():
    backbone = instantiate(CONFIGS["effnet_lite0"])
    assert (backbone.name, backbone.width, backbone.resizer) == ("effnet", 320, "bilinear 64")
