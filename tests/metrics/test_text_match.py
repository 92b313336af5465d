import pytest
import torch
from torchmetrics.functional.pairwise import pairwise_cosine_similarity

from trainer.errors import UserError
from trainer.metrics.text_match import _others, clip_score, r_precision


def vectors(count, seed, width=16):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_clip_score_is_two_and_a_half_times_the_cosine():
    x = torch.tensor([[3.0, 4], [3, 4], [3, 4], [0, 2]])
    y = torch.tensor([[6.0, 8], [4, -3], [-3, -4], [1, 1]])
    torch.testing.assert_close(clip_score(x, y), torch.tensor([2.5, 0, 0, 2.5 / 2**0.5]).double())


def test_clip_score_against_torchmetrics():
    x, y = vectors(50, 0), vectors(50, 1)
    theirs = 100 * pairwise_cosine_similarity(x, y).diagonal().clamp(min=0).double()
    torch.testing.assert_close(40 * clip_score(x, y), theirs, rtol=1e-4, atol=1e-4)


def test_r_precision_among_all_captions():
    """With as many candidates as captions nothing is drawn."""
    texts, own = vectors(60, 0), torch.arange(200) % 60
    images = texts[own] + 1.2 * vectors(200, 1)
    expected = (pairwise_cosine_similarity(images, texts).argmax(1) == own).double().mean().item()
    assert 0.1 < expected < 0.9
    assert r_precision(images, texts, own, candidates=60) == pytest.approx(expected, abs=1e-12)


def test_r_precision_among_drawn_captions():
    texts, own = vectors(300, 0), torch.arange(500) % 300
    images = texts[own] + 1.5 * vectors(500, 1)
    others = _others(own, 300, 99, seed=7)
    cosine = pairwise_cosine_similarity(images, texts).double()
    expected = sum(cosine[i, own[i]] > cosine[i, others[i]].max() for i in range(500)).item() / 500
    assert r_precision(images, texts, own, seed=7) == pytest.approx(expected, abs=1e-12)
    assert r_precision(images, texts, own, candidates=2) > expected


def test_chance_and_ties():
    texts, own = vectors(400, 0), torch.arange(400).repeat(20)
    assert r_precision(vectors(8000, 1), texts, own, candidates=10) == pytest.approx(0.1, abs=0.015)
    assert r_precision(texts, texts, own[:400]) == 1
    assert r_precision(torch.ones(400, 16), torch.ones(400, 16), own[:400]) == 0  # knows nothing, finds nothing


@pytest.mark.parametrize(("num_texts", "count"), [(101, 99), (100, 99), (5000, 99), (2, 1)])
def test_candidates_are_others_without_repetition(num_texts, count):
    own = torch.arange(500) * 7 % num_texts
    rows = _others(own, num_texts, count, seed=0)
    assert rows.min() >= 0 and rows.max() < num_texts
    assert not (rows == own[:, None]).any()
    assert all(len(set(row)) == count for row in rows.tolist())


def test_every_other_caption_is_drawn_alike():
    rows = _others(torch.full((20000,), 3), 20, 5, seed=0)
    share = torch.bincount(rows.flatten(), minlength=20) / 20000
    assert share[3] == 0
    torch.testing.assert_close(share[share > 0], torch.full((19,), 5 / 19), atol=0.015, rtol=0)


def test_candidates_hang_on_the_seed_and_the_number_alone():
    own = torch.arange(300)
    rows = _others(own, 300, 99, seed=1)
    state = torch.get_rng_state()
    assert torch.equal(_others(own[:50], 300, 99, seed=1), rows[:50])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(_others(own, 300, 99, seed=2), rows)


def test_too_few_captions():
    with pytest.raises(UserError, match="100 captions: there are 40 that differ"):
        r_precision(vectors(5, 0), vectors(40, 1), torch.arange(5))
