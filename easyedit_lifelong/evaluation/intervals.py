"""Bootstrap confidence intervals: how much a score depends on which requests were drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2_000_000
"""The largest number of drawn indices that are in memory at a time."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The lower and upper end of a confidence interval."""

    low: float
    high: float


def bootstrap(
    by_request: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of the mean over all questions.

    Questions about one request are not independent. So each resample draws requests, not questions, with replacement
    (a cluster bootstrap). The same seed gives the same interval.

    Args:
        by_request: the values of each request; requests without values are ignored.
        seed: the seed of the draws.
        resamples: the number of resamples.
        level: the confidence level.

    Returns:
        The interval; None if fewer than two requests have values.
    """
    one_kind = [[values] for values in by_request]
    return bootstrap_of(one_kind, _first_mean, seed=seed, resamples=resamples, level=level)


def bootstrap_of(
    by_request: Sequence[Sequence[Sequence[float]]],
    combine: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval | None:
    """Return the percentile bootstrap interval of a score that combines several means over the same requests.

    Args:
        by_request: the values of each request, by kind. A request that lacks some kinds counts in the others;
            requests without any value are ignored.
        combine: computes the score of each resample, shape ``(resamples,)``, from the means, shape
            ``(resamples, kinds)``.
        seed: the seed of the draws.
        resamples: the number of resamples.
        level: the confidence level.

    Returns:
        The interval; None if, for some kind, fewer than two requests have values.
    """
    answered = [kinds for kinds in by_request if any(len(values) for values in kinds)]
    sums = np.array([[sum(values) for values in kinds] for kinds in answered], dtype=np.float64)
    counts = np.array([[len(values) for values in kinds] for kinds in answered], dtype=np.float64)
    if not answered or (np.count_nonzero(counts, axis=0) < 2).any():
        return None
    scores = combine(_resampled_means(sums, counts, seed, resamples))
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled_means(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats:
    """Return the means of each resample.

    Args:
        sums: the sum of each request's values, shape ``(requests, kinds)``.
        counts: the number of each request's values, shape ``(requests, kinds)``.
        seed: the seed of the draws.
        resamples: the number of resamples.

    Returns:
        The means, shape ``(resamples, kinds)``; NaN if no request with values of the kind was drawn.
    """
    generator, n_requests = np.random.default_rng(seed), len(sums)
    same_counts = bool((counts == counts[0]).all())
    blocks = []
    resamples_in_block = max(1, _BLOCK // n_requests)
    for begin in range(0, resamples, resamples_in_block):
        size = (min(resamples_in_block, resamples - begin), n_requests)
        drawn = generator.integers(n_requests, size=size, dtype=np.int32)
        means = []
        for kind in range(sums.shape[1]):
            total = sums[:, kind][drawn].sum(axis=1)
            count = n_requests * counts[0, kind] if same_counts else counts[:, kind][drawn].sum(axis=1)
            with np.errstate(invalid="ignore"):
                means.append(total / count)
        blocks.append(np.stack(means, axis=1))
    return np.concatenate(blocks)


def _first_mean(means: Floats) -> Floats:
    """Return the means of the first kind."""
    return means[:, 0]
