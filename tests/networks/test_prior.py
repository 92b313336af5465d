"""Transformers over codes, and how they draw: causality, caches, positions, inverse CDF, the schedule of MaskGIT."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.networks.prior import Prior, rotary, rotated
from trainer.networks.quantizers import FSQ, Gaussian
from trainer.networks.token_generators import Autoregressive, Parallel, num_hidden
from trainer.networks.tokenizer import Decoder, Encoder, Tokenizer

TEXT, SIZE, CODES = 24, 4, 60
OPTIONS = {"text_channels": TEXT, "text": nn.Identity(), "width": 32, "num_layers": 2, "num_heads": 4}


def make_condition(num, length=6):
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(length)[None] < torch.arange(1, num + 1).clamp(max=length)[:, None]
    return Condition(torch.randn(num, length, TEXT, generator=draw), mask, torch.randn(num, TEXT, generator=draw))


def make_prior(causal):
    torch.manual_seed(0)
    prior = Prior(CODES, SIZE, causal, **OPTIONS)
    prior.head.weight.data *= 50  # decided logits, unlike those of the beginning
    return prior


def make_generator(kind, **options):
    torch.manual_seed(0)
    tokenizer = Tokenizer(Encoder(16, SIZE, 4, 8), FSQ([5, 4, 3]), Decoder(16, SIZE, TEXT, nn.Identity(), 4, 8, 16))
    generator = kind(partial(Prior, **OPTIONS), tokenizer, **options)
    generator.prior.head.weight.data *= 50
    return generator.eval()


def codes(num):
    return torch.randint(0, CODES, (num, SIZE**2), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("causal", [True, False])
def test_what_a_place_sees(causal):
    prior, given = make_prior(causal), codes(1)
    other = given.clone()
    other[0, 5] = (other[0, 5] + 1) % CODES
    differs = (prior(given, make_condition(1)) - prior(other, make_condition(1))).abs().amax(2)[0] > 1e-5
    expected = torch.arange(16) > 5 if causal else torch.ones(16, dtype=torch.bool)
    assert torch.equal(differs, expected)


def test_kept_keys_and_values_are_those_of_the_whole():
    prior, given, condition = make_prior(True), codes(3), make_condition(3)
    whole, past = prior(given, condition), prior.begin(condition)
    seen = torch.cat([torch.full((3, 1), CODES), given[:, :-1]], 1)
    parts = []
    for part in seen.split([1, 1, 5, 9], 1):
        logits, past = prior.step(part, past)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert past.places == 16


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_independence_and_padding(causal):
    prior, given, condition = make_prior(causal), codes(4), make_condition(4)
    condition.tokens.requires_grad_()
    given[0, 0] = CODES  # hidden, or never seen
    logits = prior(given, condition)
    logits[1].square().sum().backward(retain_graph=True)
    assert (condition.tokens.grad.flatten(1).abs().sum(1) > 0).tolist() == [False, True, False, False]
    assert not condition.tokens.grad[~condition.mask].any()
    logits.square().sum().backward()
    assert not [n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_positions_turn_by_row_and_column():
    """The product of a turned query and key hangs on how far apart their places are, along both axes."""
    turn = rotary(5, 8)
    query, key = torch.randn(8), torch.randn(8)
    at = torch.stack([rotated(each.expand(1, 1, 25, 8), turn)[0, 0] for each in (query, key)])
    products = (at[0] @ at[1].T).view(5, 5, 5, 5)  # of a query at (r, c) and a key at (r', c')
    torch.testing.assert_close(products[0, 0, 1, 2], products[2, 1, 3, 3])
    torch.testing.assert_close(products[4, 3, 2, 3], products[3, 0, 1, 0])
    assert (products[0, 0, 1, 2] - products[0, 0, 2, 1]).abs() > 1e-4
    complex_query, complex_key = (torch.complex(*each.chunk(2)) for each in (query, key))
    angle = torch.tensor([1.0, 100**-0.5, 2.0, 2 * 100**-0.5])  # one row and two columns further
    expected = (complex_query.conj() * complex_key * torch.polar(torch.ones(4), angle)).real.sum()
    torch.testing.assert_close(products[0, 0, 1, 2], expected)


def test_codes_are_drawn_by_their_probabilities():
    generator = make_generator(Autoregressive)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn, confidence = generator.choose(logits.expand(1000, 1, 4), uniform[:, None])
    shares = torch.bincount(drawn.flatten(), minlength=4) / 1000
    torch.testing.assert_close(shares, logits.softmax(0), atol=1e-3, rtol=0)
    assert drawn.flatten().diff().min() >= 0, "not the inverse of a running sum"
    torch.testing.assert_close(confidence.flatten(), logits.double().log_softmax(0)[drawn.flatten()])
    generator.top_k = 2
    drawn, _ = generator.choose(logits.expand(1000, 1, 4), uniform[:, None])
    torch.testing.assert_close(
        torch.bincount(drawn.flatten(), minlength=4)[[1, 3]] / 1000, logits[[1, 3]].softmax(0), atol=1e-3, rtol=0
    )
    far = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert generator.choose(logits.expand(2, 1, 4), far)[0].flatten().tolist() == [1, 3]


def test_one_code_after_the_other():
    generator, condition = make_generator(Autoregressive, temperature=0.5), make_condition(3)
    latent = torch.randn(3, generator.latent_channels)
    drawn = generator.draw(latent, [(1.0, condition)])
    logits = generator.prior(drawn, condition).double() / 0.5  # teacher forced with what was drawn
    until = logits.softmax(-1).cumsum(-1)
    uniform = torch.special.ndtr(latent.double())[..., None]
    assert torch.equal(drawn, (until < uniform).sum(-1))
    image = generator(latent, condition)
    torch.testing.assert_close(image, generator.tokenizer.decode(drawn.view(3, 4, 4), condition))


def test_parallel_steps_hide_by_the_schedule_and_keep_what_they_chose(monkeypatch):
    generator, condition = make_generator(Parallel, num_steps=5), make_condition(2)
    assert generator.latent_channels == 5 * 2 * 16
    states, step = [], generator.step
    monkeypatch.setattr(generator, "step", lambda codes, *rest: states.append(codes) or step(codes, *rest))
    states.append(generator.draw(torch.randn(2, generator.latent_channels), [(1.0, condition)]))
    hidden = [(state == CODES).sum(1).tolist() for state in states]
    expected = [math.ceil(math.cos(math.pi / 2 * s / 5) * 16) for s in range(5)]
    expected[1] = min(15, expected[1])
    assert hidden == [[n, n] for n in expected] + [[0, 0]]
    for before, after in pairwise(states):
        assert torch.equal(after[before != CODES], before[before != CODES])


def test_the_most_confident_are_kept():
    generator, condition = make_generator(Parallel, num_steps=2, choice_temperature=0.0), make_condition(1)
    latent = torch.randn(1, generator.latent_channels)
    drawn = generator.draw(latent, [(1.0, condition)])
    logits = generator.prior(torch.full((1, 16), CODES), condition)
    first, confidence = generator.choose(logits, torch.special.ndtr(latent[:, :16].double()))
    kept = confidence[0].argsort(descending=True)[: 16 - num_hidden(0.5, 16)]
    assert torch.equal(drawn[0, kept], first[0, kept])


@pytest.mark.parametrize("kind", [Autoregressive, Parallel])
def test_guidance_moves_logits(kind):
    generator, condition = make_generator(kind), make_condition(3)
    other = Condition(condition.tokens.flip(0), condition.mask, condition.pooled.flip(0))
    latent = torch.randn(3, generator.latent_channels)
    torch.testing.assert_close(generator.guided(latent, condition, other, 1.0), generator(latent, condition))
    conditional, without = (generator.prior(codes(3), each) for each in (condition, other))
    if kind is Parallel:
        pasts = [generator.prior.begin(each) for each in (condition, other)]
        logits, _ = generator.step(codes(3), [3.0, -2.0], pasts)
        torch.testing.assert_close(logits, without + 3 * (conditional - without), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Autoregressive, Parallel])
def test_a_latent_is_an_image_in_any_company(kind):
    generator, condition = make_generator(kind), make_condition(5)
    latent = torch.randn(5, generator.latent_channels)
    together = generator.draw(latent, [(1.0, condition)])
    alone = [generator.draw(latent[i : i + 1], [(1.0, condition.rows([i]))]) for i in range(5)]
    assert torch.equal(together, torch.cat(alone))


def test_options_are_checked():
    with pytest.raises(UserError, match="width=36"):
        Prior(CODES, SIZE, True, TEXT, nn.Identity(), width=36, num_heads=4)
    with pytest.raises(UserError, match="temperature=0"):
        make_generator(Autoregressive, temperature=0)
    with pytest.raises(UserError, match="num_steps=17"):
        make_generator(Parallel, num_steps=17)
    tokenizer = Tokenizer(Encoder(16, 4, 4, 8), Gaussian(2), Decoder(16, 4, TEXT, nn.Identity(), 4, 8, 16))
    with pytest.raises(UserError, match="no codes"):
        Autoregressive(partial(Prior, **OPTIONS), tokenizer)
