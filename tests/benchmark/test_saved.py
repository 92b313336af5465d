"""What is kept for gradients, against layers whose need is known."""

import torch
from torch import nn

from trainer.benchmark.saved import Saved


def test_each_activation_once_and_no_weights():
    network = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 5))
    x = torch.randn(8, 10)
    with Saved(network) as saved:
        y = network(x)
    assert saved.total == 4 * 8 * (10 + 20)  # the input, and the sigmoid's output that two layers keep
    y.sum().backward()  # what was kept is still there
    assert network[0].weight.grad.any()


def test_gradients_of_gradients_keep_more_and_are_right():
    layer, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(3, 4)
    found = []
    for watched in (False, True):
        given = x.clone().requires_grad_()
        with Saved(layer) if watched else torch.enable_grad() as saved:
            (slope,) = torch.autograd.grad(layer(given).sum(), given, create_graph=True)
            slope.square().sum().backward()
        found.append(layer[0].weight.grad.clone())
        layer.zero_grad()
    assert torch.equal(*found)
    assert saved.total > 4 * 3 * 8
