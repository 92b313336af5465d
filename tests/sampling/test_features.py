"""Text features composed, shifted and on the way between two, against their formulas."""

import math

import pytest
import torch

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.sampling.features import between, joined, mixed, resized, shifted, slerp

LENGTHS = torch.tensor([3, 1, 2])


def three() -> Condition:
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(6)[None] < LENGTHS[:, None]
    tokens = torch.randn(3, 6, 4, generator=draw) * mask[..., None]
    return Condition(tokens, mask, torch.randn(3, 4, generator=draw))


def test_captions_mix_by_weight_and_tokens_count_where_one_has_them():
    condition = three().rows([0, 1])
    found = mixed(condition, torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]))
    assert torch.equal(found.mask, torch.stack([condition.mask[0], condition.mask.any(0), condition.mask[1]]))
    assert torch.equal(found.pooled[[0, 2]], condition.pooled)
    assert torch.allclose(found.pooled[1], 0.25 * condition.pooled[0] + 0.75 * condition.pooled[1])
    assert torch.equal(found.tokens[[0, 2]], condition.tokens)
    assert torch.allclose(found.tokens[1], 0.25 * condition.tokens[0] + 0.75 * condition.tokens[1])


def test_joined_words_stand_in_one_row_and_pooled_features_are_averaged():
    condition, weights = three(), torch.tensor([0.5, 0.2, 0.3])
    found = joined(condition, weights)
    assert torch.equal(found.mask, torch.ones(1, 6, dtype=torch.bool))  # 3 + 1 + 2
    rows = [condition.tokens[caption, :length] for caption, length in enumerate(LENGTHS)]
    assert torch.equal(found.tokens[0], torch.cat(rows))
    assert torch.allclose(found.pooled[0], sum(w * p for w, p in zip(weights, condition.pooled, strict=True)))
    alone = joined(condition.rows([2]), torch.ones(1))
    assert all(torch.equal(one, other) for one, other in zip(alone[:3], condition.rows([2])[:3], strict=True))


def test_more_words_than_the_model_reads_are_refused():
    with pytest.raises(UserError, match=r"these 2 captions have 5 tokens, the model reads at most text.max_tokens=4"):
        joined(resized(three(), 4).rows([0, 2]), torch.tensor([0.5, 0.5]))


def test_away_from_a_negative_caption():
    condition, negative = three().rows([0, 2]), three().rows([1])
    found = shifted(condition, negative, 1.5)
    assert torch.allclose(found.pooled, 2.5 * condition.pooled - 1.5 * negative.pooled)
    for caption, length in enumerate((3, 2)):
        words = condition.tokens[caption, :length]
        expected = words + 1.5 * (words.mean(0) - negative.tokens[0, 0])
        assert torch.allclose(found.tokens[caption, :length], expected, atol=1e-6)
        assert not found.tokens[caption, length:].any()
    assert torch.equal(found.mask, condition.mask)
    for same in (shifted(condition, negative, 0.0), shifted(negative, negative, 3.0)):
        of = condition if len(same.mask) == 2 else negative
        assert all(torch.allclose(one, other) for one, other in zip(same[:3], of[:3], strict=True))


def test_slerp_is_the_arc_between_two_vectors():
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    at = torch.linspace(0, 1, 7)
    expected = torch.stack([(at * math.pi / 2).cos(), (at * math.pi / 2).sin()], 1) * 2
    found = slerp(start, end, at)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found[[0, -1]], torch.stack([start, end]))
    assert torch.allclose(found.norm(dim=1), torch.tensor(2.0))  # a straight line's would be 1.41 in the middle
    line = slerp(start, 3 * start, at)
    assert torch.allclose(line[:, 0], 2 + 4 * at)
    assert slerp(start, -start, at).isfinite().all()


def test_a_way_between_captions_ends_at_them():
    condition = three().rows([0, 1])
    found = between(condition, torch.tensor([0.0, 0.3, 1.0]))
    for row, caption in ((0, 0), (2, 1)):
        assert all(torch.equal(one[row], other[caption]) for one, other in zip(found[:3], condition[:3], strict=True))
    assert torch.allclose(found.tokens[1], 0.7 * condition.tokens[0] + 0.3 * condition.tokens[1])
    assert torch.equal(found.pooled, slerp(condition.pooled[0], condition.pooled[1], torch.tensor([0.0, 0.3, 1.0])))


def test_token_ids_do_not_mix():
    ids = Condition(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 0))
    calls = (lambda: mixed(ids, torch.eye(2)), lambda: joined(ids, torch.ones(2)), lambda: shifted(ids, ids, 1.0))
    for call in calls:
        with pytest.raises(UserError, match="do not mix: train with text=minilm"):
            call()


def test_resized_keeps_what_is_there_and_masks_the_rest():
    condition = three()
    longer = resized(condition, 9)
    assert longer.tokens.shape == (3, 9, 4)
    assert not longer.mask[:, 6:].any()
    back = resized(longer, 6)
    assert all(torch.equal(one, other) for one, other in zip(back[:3], condition[:3], strict=True))
