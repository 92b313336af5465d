"""What a batch and its captions are cut to."""

import torch

from trainer.batch import Condition


def test_captions_are_cut_to_the_longest():
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]).bool()
    condition = Condition(torch.randn(2, 5, 3), mask, torch.randn(2, 3))
    assert condition.longest == 3, "also where there is a hole"
    cut = condition.cut(condition.longest)
    assert torch.equal(cut.tokens, condition.tokens[:, :3]) and torch.equal(cut.mask, mask[:, :3])
    assert torch.equal(cut.pooled, condition.pooled)
    assert condition.cut(5) is condition and condition.cut(9) is condition
    assert condition._replace(mask=torch.zeros(2, 5).bool()).longest == 5, "there is nothing to go by"
