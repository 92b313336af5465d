"""Where restored optimiser states lie. Parameters on `meta` stand in for a GPU."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trainer.strategies.single import Single
from trainer.strategies.zero import Share, ZeRO

OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "fused": (torch.optim.AdamW, {"fused": True}),
    "capturable": (torch.optim.Adam, {"capturable": True}),
    "nadam": (torch.optim.NAdam, {}),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), {}),
    "adafactor": (torch.optim.Adafactor, {}),
}


def stepped(make):
    """An optimiser's states on the CPU after a step, as a checkpoint has them."""
    parameter = nn.Parameter(torch.randn(4, 3))
    optimizer = make([parameter], lr=0.1)
    parameter.grad = torch.randn(4, 3)
    optimizer.step()
    return optimizer.state_dict()


def places(state):
    return {key: (value.device.type, value.dtype, value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_lie_where_torch_puts_them(name):
    make, flags = OPTIMIZERS[name]
    saved = stepped(make)
    expected, ours = (make([nn.Parameter(torch.empty(4, 3, device="meta"))], lr=0.1) for _ in range(2))
    for group in (*expected.param_groups, *ours.param_groups, *saved["param_groups"]):
        group.update(flags)  # torch refuses to make a fused optimiser of `meta`
    expected.load_state_dict(saved)
    Single("cpu").fill_optimizer(ours, [saved["state"][0]])
    (theirs,), (mine,) = expected.state.values(), ours.state.values()
    assert places(mine) == places(theirs)


@pytest.mark.parametrize("fused", [False, True])
def test_those_of_zero_lie_beside_what_it_steps(fused, monkeypatch):
    saved = stepped(torch.optim.Adam)["state"][0]
    parameter, master = nn.Parameter(torch.empty(4, 3, device="meta")), torch.empty(12, device="meta")
    optimizer = torch.optim.Adam([parameter])
    optimizer.param_groups[0]["fused"] = fused
    strategy = ZeRO(stage=1)
    engine = SimpleNamespace(optimizer=SimpleNamespace(optimizer=SimpleNamespace(state={master: {}})))
    strategy.engines[id(optimizer)], strategy.owned[id(optimizer)] = engine, [parameter]
    monkeypatch.setattr(strategy, "shares", lambda *_: [Share(parameter, parameter.shape, master, 0, 0, 12)])
    strategy.fill_optimizer(optimizer, [saved])
    held = engine.optimizer.optimizer.state[master]
    assert held["exp_avg"].device.type == "meta"
    assert held["step"].device.type == ("meta" if fused else "cpu")
