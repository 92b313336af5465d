import subprocess
import sys

import pytest

LIGHTNING = "import sys, trainer, pytorch_lightning as pl; "


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_lightning_is_imported_without_what_it_does_not_use():
    assert python(
        LIGHTNING + "print([m for m in ('scipy', 'transformers', 'torchmetrics.image') if m in sys.modules])"
    ) == ["[]"]


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
