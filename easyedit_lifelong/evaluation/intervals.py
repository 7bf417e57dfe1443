"""Bootstrap confidence intervals: how much of a score is the luck of which requests were asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2_000_000
"""How many drawn indices are held at a time: 16 MB."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A confidence interval's ends."""

    low: float
    high: float


def bootstrap(
    by_request: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Interval | None:
    """Return the percentile bootstrap interval of the mean over all questions.

    Questions about one request are no independent evidence, so whole requests are drawn: as many as
    there are, with replacement (a cluster bootstrap). The same seed gives the same interval.

    Args:
        by_request: each request's values; those without any are left out.
        seed: of the draws.
        resamples: how many times the requests are drawn anew.
        level: how likely the interval is to hold the mean.

    Returns:
        The interval, None if fewer than two requests have values.
    """
    return bootstrap_of([[values] for values in by_request], _only, seed=seed, resamples=resamples, level=level)


def bootstrap_of(
    by_request: Sequence[Sequence[Sequence[float]]],
    combine: Callable[[Floats], Floats],
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval | None:
    """Return the interval of a number that is made of several means over the same requests.

    Args:
        by_request: each request's values of each kind. A request that lacks a kind is drawn like any other, and
            counts in the kinds that it has, as it does in the number itself; one without any is left out.
        combine: the number, of means of shape ``(resamples, kinds)``; one for each resample.
        seed: of the draws.
        resamples: how many times the requests are drawn anew.
        level: how likely the interval is to hold the number.

    Returns:
        The interval, None if fewer than two requests have values of some kind.
    """
    asked = [kinds for kinds in by_request if any(len(values) for values in kinds)]
    sums = np.array([[sum(values) for values in kinds] for kinds in asked], dtype=np.float64)
    counts = np.array([[len(values) for values in kinds] for kinds in asked], dtype=np.float64)
    if not asked or (np.count_nonzero(counts, axis=0) < 2).any():
        return None
    numbers = combine(_resampled_means(sums, counts, seed, resamples))
    low, high = np.nanquantile(numbers, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _resampled_means(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats:
    """Return the means of each resample, shape ``(resamples, kinds)``: NaN where none that has the kind was drawn."""
    draws, requests = np.random.default_rng(seed), len(sums)
    same_counts = bool((counts == counts[0]).all())
    blocks = []
    for begin in range(0, resamples, step := max(1, _BLOCK // requests)):
        drawn = draws.integers(requests, size=(min(step, resamples - begin), requests), dtype=np.int32)
        kinds = []
        for kind in range(sums.shape[1]):
            total = sums[:, kind][drawn].sum(axis=1)
            asked = requests * counts[0, kind] if same_counts else counts[:, kind][drawn].sum(axis=1)
            with np.errstate(invalid="ignore"):
                kinds.append(total / asked)
        blocks.append(np.stack(kinds, axis=1))
    return np.concatenate(blocks)


def _only(means: Floats) -> Floats:
    return means[:, 0]
