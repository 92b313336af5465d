"""Measures of captions against their definitions."""

import math

import pytest

from trainer.metrics.captions import bleu, cider_d, longest_common, ngrams, rouge_l, self_bleu, words


def test_words_are_lower_and_without_punctuation():
    assert words("On a Grey background , a cat's paw!") == ["on", "a", "grey", "background", "a", "cat's", "paw"]


def test_bleu_is_the_geometric_mean_of_clipped_precisions():
    reference = words("the cat is on the mat")
    assert bleu([reference], [[reference]]) == pytest.approx(1)
    assert bleu([["the"] * 7], [[reference]]) == 0  # no bigram of it is there
    written, others = words("a cat is on the mat today"), [reference, words("there is a cat on the mat")]
    # 1-grams: a cat is on the mat of 7; 2-grams: a-cat, cat-is, is-on, on-the, the-mat of 6; 3: cat-is-on, is-on-the,
    # on-the-mat of 5; 4: cat-is-on-the, is-on-the-mat of 4; both are 7 long or nearest to it
    expected = (6 / 7 * 5 / 6 * 3 / 5 * 2 / 4) ** 0.25
    assert bleu([written], [others]) == pytest.approx(expected)
    short = words("cat is on the")  # 4 words for 6: brevity e^(1 - 6/4)
    assert bleu([short], [[reference]]) == pytest.approx(math.exp(1 - 6 / 4))
    both = bleu([written, short], [others, [reference]])  # counts of all captions, before they are divided
    counts = [(6 + 4, 7 + 4), (5 + 3, 6 + 3), (3 + 2, 5 + 2), (2 + 1, 4 + 1)]
    expected = math.prod(a / b for a, b in counts) ** 0.25 * math.exp(1 - (7 + 6) / (7 + 4))
    assert both == pytest.approx(expected)


def test_rouge_is_of_the_longest_common_subsequence():
    one, other = words("police killed the gunman"), words("police kill the gunman")
    assert longest_common(one, other) == 3
    assert rouge_l(one, [other]) == pytest.approx(0.75)
    assert longest_common("abcbdab", "bdcaba") == 4
    short = words("the gunman")  # recall 1/2, precision 1
    b = 1.2**2
    assert rouge_l(short, [other]) == pytest.approx((1 + b) * 0.5 / (0.5 + b))
    assert rouge_l([], [other]) == rouge_l(one, [words("a b")]) == 0


def test_cider_weighs_what_is_rare_and_punishes_length():
    references = [[words("a red cat sits here")], [words("a blue dog runs there")], [words("a green bird flies high")]]
    written = [words("a red cat sits here"), words("a blue dog"), words("a cat")]
    found = cider_d(written, references)
    assert found[0] == pytest.approx(10)
    assert found[2] == 0  # "a" is in all, and so weighs nothing
    idf = math.log(3)

    def shared(n, own, theirs):
        grams = ngrams(own, n) & ngrams(theirs, n)
        common = sum(v * v * (0 if g == ("a",) else idf) ** 2 for g, v in grams.items())
        norms = [math.sqrt(sum((v * (0 if g == ("a",) else idf)) ** 2 for g, v in ngrams(each, n).items()))
                 for each in (own, theirs)]  # fmt: skip
        return common / math.prod(norms) if all(norms) else 0

    gap = math.exp(-((3 - 5) ** 2) / (2 * 36))
    expected = 10 / 4 * gap * sum(shared(n, written[1], references[1][0]) for n in range(1, 5))
    assert found[1] == pytest.approx(expected)
    two = cider_d(written[:1], [[references[0][0], words("something else")]])[0]
    assert two == 0  # of a single image no n-gram is rare
    assert cider_d([["a", "b"]] * 2, [[["a", "b"]], [["c", "d"]]])[0] == pytest.approx(5)  # n-grams of 1 and 2


def test_self_bleu_is_that_of_each_caption_against_the_others_of_its_image():
    one, other = words("a small red star on a grey background"), words("on a grey background a small red star")
    assert self_bleu([[one, one], [other, other]]) == pytest.approx(1)
    assert self_bleu([[one, one, other, other]]) == pytest.approx(1), "each has its like"
    # shared of 8 words, of 7, 6 and 5 n-grams: of one of them all but background-a, or star-on, and what spans it
    expected = (8 / 8 * 6 / 7 * 4 / 6 * 2 / 5) ** 0.25
    assert self_bleu([[one, other]]) == pytest.approx(expected)
    both = self_bleu([[one, other], [one, one]])
    assert both == pytest.approx((16 / 16 * 13 / 14 * 10 / 12 * 7 / 10) ** 0.25), "images are not mixed"
