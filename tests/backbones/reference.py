"""The Inception network of torch-fidelity with random weights: an implementation that is not ours.

It is looked for in the folder $TORCH_FIDELITY, filled by `pip install --no-deps --target FOLDER torch-fidelity`:
installed beside everything else it would bring a package `tests` that hides ours.
"""

import importlib
import os
import sys
import types
from unittest.mock import patch

import torch


def reference_inception(seed=0):
    """Network with features 2048 and logits_unbiased, and all its weights under their published names.

    Weights and statistics of the batch normalisations are drawn so that every layer keeps its signal and differs.
    """
    package = types.ModuleType("torch_fidelity")  # its own __init__ imports torchvision, its Inception does not
    package.__path__ = [f"{os.environ['TORCH_FIDELITY']}/torch_fidelity"]
    with patch.dict(sys.modules, {"torch_fidelity": package}):
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        with (
            patch.object(module, "load_state_dict_from_url", lambda *_, **__: {}),
            patch.object(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None),
        ):
            network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or name.endswith("bn.weight"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif value.is_floating_point():
            value.normal_(0, 0.1, generator=generator)
    return network
