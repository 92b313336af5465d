"""How near written captions are to those of people: BLEU, ROUGE-L, CIDEr-D, of lists of words; and to one another."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
LONGEST = 4  # words of an n-gram
ROUGE_BETA = 1.2  # recall counts more than precision, as in the caption evaluation of COCO
CIDER_SIGMA = 6.0


def words(caption: str) -> list[str]:
    """In lower case, without punctuation."""
    return [word for word in WORD.findall(caption.lower()) if word[0].isalnum()]


def ngrams(sentence: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def bleu(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """BLEU-4 of a corpus, 0 to 1 (Papineni et al. 2002): BP exp(1/4 sum_n log p_n).

    p_n: n-grams of all captions that a reference has, each as often as the reference that has it most, over all.
    BP: min(1, exp(1 - r / c)), c the length of what is written and r that of the references nearest in length.
    """
    right, total = [0] * LONGEST, [0] * LONGEST
    length = nearest = 0
    for sentence, others in zip(written, references, strict=True):
        length += len(sentence)
        nearest += min((abs(len(each) - len(sentence)), len(each)) for each in others)[1]
        for n in range(1, LONGEST + 1):
            most: Counter[tuple[str, ...]] = Counter()
            for each in others:
                most |= ngrams(each, n)
            own = ngrams(sentence, n)
            right[n - 1] += sum((own & most).values())
            total[n - 1] += sum(own.values())
    if not all(right):
        return 0.0
    precision = sum(math.log(a / b) for a, b in zip(right, total, strict=True)) / LONGEST
    return math.exp(precision + min(0.0, 1 - nearest / length))


def self_bleu(several: Sequence[Sequence[Words]]) -> float:
    """BLEU-4 of each caption against the others of its image, 0 to 1, where all are alike (mBLEU, Shetty et al. 2017).

    several: of each image at least 2 captions.
    """
    pairs = [(each, [*some[:place], *some[place + 1 :]]) for some in several for place, each in enumerate(some)]
    return bleu([each for each, _ in pairs], [others for _, others in pairs])


def rouge_l(sentence: Words, others: Sequence[Words]) -> float:
    """ROUGE-L, 0 to 1 (Lin 2004): (1 + b^2) R P / (R + b^2 P) of the longest common subsequence, b = 1.2.

    R and P are the best recall and precision over the references.
    """
    common = [longest_common(sentence, each) for each in others]
    if not sentence or not any(common):
        return 0.0
    recall = max(value / len(each) for value, each in zip(common, others, strict=True) if each)
    precision = max(common) / len(sentence)
    return (1 + ROUGE_BETA**2) * recall * precision / (recall + ROUGE_BETA**2 * precision)


def longest_common(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for j, each in enumerate(other):
            row.append(before[j] + 1 if word == each else max(row[j], before[j + 1]))
    return row[-1]


def cider_d(written: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption, 0 to 10 (Vedantam et al. 2015, section 7).

    10 / (4 m) sum_n sum_j e^(-(l - l_j)^2 / (2 6^2)) min(g_n, g_nj) . g_nj / (|g_n| |g_nj|), over m references j, with
    g_n the counts of n-grams times log(N / number of the N images whose references have them).
    """
    seen: list[Counter[tuple[str, ...]]] = []
    for n in range(1, LONGEST + 1):
        seen.append(Counter(gram for others in references for gram in {g for each in others for g in ngrams(each, n)}))
    logs = math.log(len(references))

    def weighed(sentence: Words, n: int) -> dict[tuple[str, ...], float]:
        counts, known = ngrams(sentence, n), seen[n - 1]
        return {gram: count * (logs - math.log(max(1, known[gram]))) for gram, count in counts.items()}

    found = []
    for sentence, others in zip(written, references, strict=True):
        score = 0.0
        for n in range(1, LONGEST + 1):
            own = weighed(sentence, n)
            for each in others:
                theirs = weighed(each, n)
                shared = sum(min(value, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, value in own.items())
                norms = math.hypot(*own.values()) * math.hypot(*theirs.values())
                gap = len(sentence) - len(each)
                score += shared / norms * math.exp(-(gap**2) / (2 * CIDER_SIGMA**2)) if norms else 0.0
        found.append(10 * score / (LONGEST * len(others)))
    return found
