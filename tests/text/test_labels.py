"""Classes, and nothing at all, in place of text."""

import pytest
import torch

from trainer.errors import UserError
from trainer.text.labels import Labels, Nothing


def test_a_class_has_its_code_in_any_company():
    labels = Labels(width=64)
    both, one = labels(["cat", "dog", "cat"]), labels(["dog"])
    assert both.tokens.shape == (3, 1, 64) and both.pooled.shape == (3, 64) and both.mask.all()
    assert torch.equal(both.pooled[1], one.pooled[0]) and torch.equal(both.pooled[0], both.pooled[2])
    assert torch.linalg.matrix_rank(labels([str(i) for i in range(64)]).pooled) == 64  # any embedding is a linear map
    assert abs(float(labels([str(i) for i in range(500)]).pooled.std()) - 1) < 0.02


def test_named_classes_refuse_another():
    with pytest.raises(UserError, match=r"^'cow' is none of the 2 classes cat, dog$"):
        Labels(width=8, classes=["cat", "dog"])(["cat", "cow"])
    with pytest.raises(UserError, match=r"text\.width=1: expected at least the number of classes, 2"):
        Labels(width=1, classes=["cat", "dog"])


def test_nothing_is_the_same_for_all():
    rows = Nothing(width=16).prepare(["a", "b", ""])[[0, 1, 2]].pooled
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
