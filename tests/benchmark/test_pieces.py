"""The pieces that measure: FLOPs, peaks, typical steps, tables."""

import pytest
import torch
from torch import nn

from trainer.benchmark import peak, scaling
from trainer.benchmark.flops import Flops
from trainer.benchmark.measure import medians
from trainer.benchmark.step_time import typical
from trainer.report.table import markdown


def test_flops_of_a_linear_layer_forward_and_backward():
    layer, x = nn.Linear(30, 50, bias=False), torch.randn(7, 30)
    with Flops() as flops:
        layer(x).sum().backward()
    assert flops.total == 2 * 7 * 30 * 50 * 2  # forward; the gradient of the weight


def test_flops_of_a_convolution_with_a_double_backward():
    layer, x = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.randn(2, 3, 16, 16, requires_grad=True)
    once = 2 * 2 * 16 * 16 * 8 * 3 * 9
    with Flops() as flops:
        out = layer(x)
    assert flops.total == once
    with Flops() as flops:
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert flops.total > 3 * once


def test_a_lazy_penalty_weighs_as_often_as_it_comes():
    steps = range(10, 26)
    seconds = [5.0 if step % 4 == 0 else 1.0 for step in steps]
    seconds[1] = 100.0  # a hiccup
    assert typical(seconds, steps, 4) == pytest.approx((5 + 3 * 1) / 4)
    assert typical([1.0, 2.0, 9.0], range(3), 1) == 2.0


def test_medians_go_into_nested_numbers():
    runs = [{"a": 1.0, "b": {"c": x}, "ranks": 2, "bare": None} for x in (3.0, 1.0)]
    assert repr(medians(runs)["ranks"]) == "2", "counts stay whole"
    assert medians(runs) == {"a": 1.0, "b": {"c": 2.0}, "ranks": 2, "bare": None}


@pytest.mark.parametrize(
    ("name", "numbers", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "16", 989.4),
        ("NVIDIA H100 PCIe", "16", 756.5),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156),
        ("NVIDIA L4", "fp32", 30.3),
        ("NVIDIA L40S", "16", 362),
        ("Tesla T4", "tf32", 8.1),
        ("Tesla V100-SXM2-16GB", "16", 125),
        ("NVIDIA A10G", "16", 70),
        ("NVIDIA GeForce RTX 4090", "16", 165.2),
    ],
)
def test_peaks_by_name(name, numbers, tflops):
    assert peak.of_gpu(name, numbers) == pytest.approx(1e12 * tflops)


def test_an_unknown_gpu_has_no_peak():
    assert peak.of_gpu("NVIDIA GeForce GT 710", "fp32") is None


def test_the_peak_of_a_cpu_is_reached_by_no_product(monkeypatch):
    monkeypatch.setattr(peak, "SECONDS", 0.05)
    assert 1e8 < peak.of_cpu(torch.float32, size=256) < 1e15


def test_the_reason_of_a_failure_is_what_stands_before_torchruns_account():
    torchrun = "E1122 14145 torch/distributed/elastic/api.py:1] failed\nTraceback\n  x\n"
    log = f"start\nstrategy=zero9: no such option\n{torchrun}"
    assert scaling.reason(log) == ["start", "strategy=zero9: no such option"]
    assert scaling.reason("a\nb\n") == ["a", "b"]
    assert len(scaling.reason("a\n" * 100)) == scaling.TAIL


def test_tables_line_up():
    text = markdown(["", "ms"], [["step", "1.00"], ["a phase", "10.00"]])
    assert text.splitlines() == [
        "|         |    ms |",
        "| ------- | ----: |",
        "| step    |  1.00 |",
        "| a phase | 10.00 |",
    ]
