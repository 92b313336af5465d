"""Words leave a text encoder inside a generator; and every other pass on such a generator, before and behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.compression.vocabulary import Chosen, vocabulary
from trainer.errors import UserError

from .conftest import LATENT, TEXT, make, node_of
from .test_pairs import COMPILED, PASSES, ROUNDING, STEPS, applied, running

WORDS = 100
NODE = {
    "_target_": "trainer.networks.worded.WordedGenerator",
    "text": {
        "_target_": "trainer.text.scratch.TextTransformer",
        **{"width": TEXT, "channels": 16, "num_layers": 1, "num_heads": 2, "vocabulary": WORDS, "max_tokens": 6},
    },
    "generator": node_of("residual"),
}


def batch(first: int, last: int, seed: int = 0) -> tuple[torch.Tensor, Condition]:
    """Of 16 captions with ids from `first` to below `last`."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(first, last, (16, 6), generator=draw)
    mask = torch.arange(6)[None] < torch.randint(1, 7, (16, 1), generator=draw)
    return torch.randn(16, LATENT, generator=draw), Condition(ids, mask, torch.empty(16, 0))


def test_captions_of_pieces_that_stay_are_drawn_as_before(saved):
    network, inputs = make(NODE), [batch(60, 70)]
    with torch.no_grad():
        small = vocabulary(network, inputs, pieces=30)
        assert isinstance(small.text.words, Chosen)
        assert len(small.text.words.weight) == 31
        back = saved(NODE, network, small)
        for first, last in ((60, 70), (0, 20)):  # those of the calibration, and the first of the vocabulary
            given = batch(first, last, seed=1)
            assert torch.equal(small(*given), network(*given))
            assert torch.equal(back(*given), network(*given))
        others = [batch(first, first + 1) for first in (75, 99)]
        assert torch.equal(small(*others[0]), small(*others[1])), "all that were cut are one"
        assert not torch.equal(network(*others[0]), network(*others[1]))
    rest = torch.ones(WORDS, dtype=torch.bool)
    rest[small.text.words.row < 30] = False
    assert rest.sum() == WORDS - 30
    torch.testing.assert_close(small.text.words.weight[-1], network.text.words.weight[rest].mean(0))


def test_more_pieces_than_asked_for_stay_where_captions_have_them():
    small = vocabulary(make(NODE), [batch(0, WORDS, seed=2)], pieces=5)
    used = len(batch(0, WORDS, seed=2)[1].tokens.unique())
    assert len(small.text.words.weight) == used + 1


def test_nothing_to_cut_is_said(capfd):
    network = make(NODE)
    small = vocabulary(network, [batch(0, 50)], pieces=WORDS)
    assert isinstance(small.text.words, nn.Embedding)
    assert capfd.readouterr().err == "vocabulary: no embedding has more than 100 words: nothing changed\n"


def test_what_does_not_fit_is_refused(inputs):
    with pytest.raises(UserError, match="put a small one inside by"):
        vocabulary(make(node_of("dcgan")), inputs)
    with pytest.raises(UserError, match="pieces=0"):
        vocabulary(make(NODE), [batch(0, 9)], pieces=0)


@pytest.mark.parametrize("name", [name for name in PASSES if name not in COMPILED])
def test_every_pass_behind_it(name, saved):
    """As `test_pairs` has it for generators of features."""
    network, inputs = make(NODE), [batch(20, 60, seed=seed) for seed in range(2)]
    with torch.no_grad():
        small = vocabulary(network, inputs, pieces=64)
        changed, nodes = applied(small, [name], inputs)
        back = saved(NODE, network, changed)
        images = changed(*inputs[0])
        assert torch.equal(back(*inputs[0]), images)
        ran = running(back, nodes)(*inputs[0])
    if name in STEPS:
        assert (ran - images).square().mean().sqrt() <= 0.01
    else:
        assert (ran - images).abs().max() <= ROUNDING
    if name in ("fold", "channels_last", "half"):
        assert (ran - network(*inputs[0])).abs().max() <= (0.05 if name == "half" else ROUNDING)
