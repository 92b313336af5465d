"""The matching losses against the equations of the paper, written in loops."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from trainer.losses.matching import caption_given_image, global_scores, image_given_caption, word_scores

G1, G2, G3 = 4.0, 3.0, 7.0
N, M, D, L = 3, 4, 5, 6


def features(dtype=torch.float32):
    torch.manual_seed(0)
    regions, words = torch.randn(N, D, 2, 3, dtype=dtype), torch.randn(M, L, D, dtype=dtype)
    return regions, words, torch.arange(L)[None] < torch.tensor([1, 6, 3, 5])[:, None]


def word_score(regions, words):
    """Equations 7 to 10 for one image, regions (D, R), and one caption without padding, words (T, D)."""
    s = [[float(e @ v) for v in regions.T] for e in words]
    over_words = [sum(math.exp(s[k][j]) for k in range(len(s))) for j in range(len(s[0]))]
    total = 0.0
    for i, e in enumerate(words):
        attention = [math.exp(G1 * math.exp(s[i][j]) / over_words[j]) for j in range(len(s[i]))]
        context = sum(a * v for a, v in zip(attention, regions.T, strict=True)) / sum(attention)
        total += math.exp(G2 * float(cosine_similarity(context, e, dim=0)))
    return math.log(total ** (1 / G2))


def test_word_scores():
    regions, words, mask = features()
    scores = word_scores(regions, words, mask, G1, G2)
    assert scores.shape == (N, M)
    for i in range(N):
        for j in range(M):
            assert scores[i, j].item() == pytest.approx(word_score(regions[i].flatten(1), words[j, mask[j]]), abs=1e-5)


def test_padding_is_no_word():
    regions, words, mask = features()
    scores = word_scores(regions, words, mask)
    words[~mask] = 1e3
    torch.testing.assert_close(word_scores(regions, words, mask), scores)


def test_global_scores():
    image, text = torch.randn(N, D), torch.randn(M, D)
    expected = torch.tensor([[float(a @ b / a.norm() / b.norm()) for b in text] for a in image])
    torch.testing.assert_close(global_scores(image, text), expected)


@pytest.mark.parametrize(
    "loss, transposed", [(caption_given_image, False), (image_given_caption, True)], ids=["captions", "images"]
)
def test_contrast(loss, transposed):
    scores, caption = torch.randn(5, 5), torch.tensor([7, 3, 7, 1, 7])
    values = loss(scores, caption, G3)
    assert values.shape == (5,)
    for i in range(5):
        others = [j for j in range(5) if j == i or caption[j] != caption[i]]
        row = scores[:, i] if transposed else scores[i]
        posterior = math.exp(G3 * row[i]) / sum(math.exp(G3 * row[j]) for j in others)
        assert values[i].item() == pytest.approx(-math.log(posterior), abs=1e-5)


def test_equal_captions_give_nothing_to_learn():
    scores = torch.randn(4, 4, requires_grad=True)
    loss = caption_given_image(scores, torch.zeros(4, dtype=torch.int64))
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 4
    assert scores.grad.abs().max() == 0


def test_gradients(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # finite differences need more than fp32
    regions, words, mask = features(torch.float64)
    regions.requires_grad_()
    words.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, e: word_scores(v, e, mask, G1, G2), (regions, words))
    vectors = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(global_scores, (vectors, torch.randn(M, D, dtype=torch.float64)))
    scores = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    caption = torch.tensor([0, 1, 0, 2])
    for loss in (caption_given_image, image_given_caption):
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, caption), scores)


def test_float32_whatever_comes_in():
    regions, words, mask = features(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = word_scores(regions, words, mask)
    torch.testing.assert_close(scores, word_scores(regions.float(), words.float(), mask))
    assert global_scores(words[:, 0], words[:, 1]).dtype == torch.float32
