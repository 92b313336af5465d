import subprocess
import sys

import pytest

LIGHTNING = "import sys, trainer, pytorch_lightning as pl; "


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


STEP = """
import torch
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.Adam([weight])
def step():
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
step()
"""


def test_a_run_on_one_device_loads_nothing_that_it_does_not_use():
    code = LIGHTNING + "import trainer.objectives.gan, trainer.strategies.single, trainer.callbacks.guard\n" + STEP
    unused = "scipy", "transformers", "torchmetrics.image", "matplotlib", "sympy", "torch._dynamo.utils"
    assert python(code + f"print([name for name in {unused} if name in sys.modules])") == ["[]"]


@pytest.mark.parametrize(
    ("first", "use"),
    [
        (LIGHTNING + STEP, ""),
        (LIGHTNING + STEP, "from torch._dynamo import utils as part"),
        ("import sys, trainer\n", "import torch._dynamo.utils as part"),
    ],
)
def test_torch_compile_finds_torch_dynamo_whole_whichever_way_it_is_asked_for(first, use):
    code = f"""{first}
{use}
import torch, pytorch_lightning
from lightning_fabric.wrappers import OptimizedModule
layer = torch.nn.Linear(2, 2)
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2)))
assert isinstance(compiled, OptimizedModule) and not isinstance(layer, OptimizedModule)
import torch._dynamo.utils
assert torch._dynamo is sys.modules["torch._dynamo"] and torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
assert globals().get("part", torch._dynamo.utils) is torch._dynamo.utils
asked = torch.optim.Optimizer.zero_grad.__wrapped__
assert not hasattr(asked, "__dynamo_disable")
torch.optim.SGD(layer.parameters()).zero_grad()
print(getattr(asked, "__dynamo_disable") is not asked)
"""
    assert python(code) == ["True"]


@pytest.mark.parametrize(
    "use", ["from torchmetrics import MeanMetric as M", "from torchmetrics.aggregation import MeanMetric as M"]
)
def test_torchmetrics_of_a_user_is_whole_and_its_metrics_are_lightnings(use):
    code = (
        LIGHTNING + use + "; import torchmetrics as t, torchmetrics.image; from pytorch_lightning.core import module; "
    )
    assert python(code + "print(issubclass(M, module.Metric), t.SumMetric.__name__, t.__version__ > '1')") == [
        "True", "SumMetric", "True"
    ]  # fmt: skip


def test_torchmetrics_before_lightning():
    assert python("import trainer, torchmetrics.image as i; print(i.__name__)") == ["torchmetrics.image"]


def test_metrics_still_draw():
    pytest.importorskip("matplotlib")
    code = LIGHTNING + "from torchmetrics import MeanMetric; metric = MeanMetric(); metric.update(1); "
    assert python(code + "print(type(metric.plot()[0]).__name__)") == ["Figure"]
