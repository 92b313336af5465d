"""What a process that only draws leaves out is there once it is asked for."""

import subprocess
import sys

import pytest

QUICK = "from trainer.process.start import quickly\nwith quickly():\n    import torch, sys\n"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_it_is_left_out_and_not_missed():
    code = QUICK + "    torch.nn.Conv2d(3, 4, 3)(torch.ones(1, 3, 8, 8))\n"
    unused = "torch._decomp", "torch._refs", "torch._inductor", "sympy"
    assert python(code + f"print([name for name in {unused} if name in sys.modules])") == ["[]"]


WITHOUT_VALUES = """
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    print(*torch.nn.functional.conv2d(torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)).shape)
    print(*torch.linalg.svd(torch.ones(5, 3))[0].shape)
"""
EXPORTED = """
layer = torch.nn.Linear(2, 2)
exported = torch.export.export(layer, (torch.ones(3, 2),), strict=False)
print(torch.equal(exported.module()(torch.ones(3, 2)), layer(torch.ones(3, 2))))
"""
COMPILED = """
layer = torch.nn.Linear(2, 2)
print(torch.equal(torch.compile(layer, backend="aot_eager")(torch.ones(1, 2)), layer(torch.ones(1, 2))))
"""
TRANSFORMERS = """
import transformers
with torch.device("meta"):
    print(*transformers.BertModel(transformers.BertConfig(num_hidden_layers=1)).pooler.dense.weight.shape)
"""


@pytest.mark.parametrize("use", [WITHOUT_VALUES, EXPORTED, COMPILED, TRANSFORMERS, "import torch._refs\n"])
def test_what_traces_finds_all_of_it(use):
    """As a process that left nothing out, with as many operators."""
    known = """
import torch._decomp
print(len(torch._decomp.meta_table), len(torch._decomp.decomposition_table), len(torch._meta_registrations.__dict__))
assert sys.modules["torch._meta_registrations"] is torch._meta_registrations
"""
    plain = python(f"import torch, sys, trainer\n{use}{known}")
    assert python(f"{QUICK}{use}{known}") == plain and int(plain[-1]) > 100


def test_a_pytorch_that_begins_with_it_has_it_at_once():
    """As if a part that traces were imported while PyTorch is."""
    code = """
import sys
from trainer.process import start
with start.quickly():
    class Early:
        def find_spec(self, name, path, target=None):
            if name == "torch.nn":
                sys.meta_path.remove(self)
                start.Tracing().find_spec("torch._decomp", None)
    sys.meta_path.insert(0, Early())
    import torch
print(type(sys.modules["torch._meta_registrations"]).__name__, "torch._decomp" in sys.modules)
"""
    assert python(code) == ["module", "True"]
