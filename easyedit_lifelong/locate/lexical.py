"""BM25: how well texts match a query by their words. A baseline for attribution, which knows no words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_K1, _B = 1.5, 0.75
_WORD = re.compile(r"\w+")


def bm25_scores(texts: Sequence[str], query: str) -> list[float]:
    """Return the BM25 score of each text for a query (Robertson and Zaragoza 2009; k₁ = 1.5, b = 0.75)."""
    words = [_WORD.findall(text.lower()) for text in texts]
    counts = [Counter(of_text) for of_text in words]
    mean_length = sum(map(len, words)) / len(words) or 1.0
    scores = [0.0] * len(texts)
    for word in set(_WORD.findall(query.lower())):
        n_with = sum(word in count for count in counts)
        rarity = math.log(1 + (len(texts) - n_with + 0.5) / (n_with + 0.5))
        for index, count in enumerate(counts):
            length = _K1 * (1 - _B + _B * len(words[index]) / mean_length)
            scores[index] += rarity * count[word] * (_K1 + 1) / (count[word] + length)
    return scores
