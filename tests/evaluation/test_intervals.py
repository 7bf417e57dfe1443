"""Bootstrap intervals equal those of a plain loop, agree with theory, and are absent for too few requests."""

from __future__ import annotations

import random

import numpy as np
import pytest

from easyedit_lifelong.evaluation import intervals
from easyedit_lifelong.evaluation.intervals import Interval, bootstrap, bootstrap_of

UNEVEN = [[1.0], [0.0, 0.5, 1.0], [0.25], [], [1.0, 1.0], [0.0]]


def plain_bootstrap(by_request: list[list[float]], seed: int, resamples: int) -> tuple[float, float]:
    """Compute the cluster bootstrap of textbooks with a loop, on the same draws."""
    answered = [values for values in by_request if values]
    drawn = np.random.default_rng(seed).integers(len(answered), size=(resamples, len(answered)), dtype=np.int32)
    means = []
    for row in drawn:
        values = [value for request in row for value in answered[request]]
        means.append(sum(values) / len(values))
    means.sort()
    return tuple(float(np.quantile(means, q)) for q in (0.025, 0.975))  # type: ignore[return-value]


def test_the_interval_is_that_of_a_plain_cluster_bootstrap() -> None:
    assert bootstrap(UNEVEN, seed=3, resamples=200) == pytest.approx(plain_bootstrap(UNEVEN, 3, 200), abs=1e-12)


def test_the_block_size_does_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block size limits memory only."""
    one_block = bootstrap(UNEVEN, seed=3)
    monkeypatch.setattr(intervals, "_BLOCK", 7)
    assert bootstrap(UNEVEN, seed=3) == one_block


def test_the_interval_of_a_proportion_agrees_with_theory() -> None:
    """For 400 yes and 100 no: 0.8 ± 1.96 √(0.8·0.2/500) = 0.8 ± 0.035."""
    interval = bootstrap([[1.0]] * 400 + [[0.0]] * 100, resamples=4000)
    assert interval == pytest.approx((0.765, 0.835), abs=0.004)


def test_questions_of_one_request_are_resampled_together() -> None:
    """Ten copies of every answer are no more evidence than one."""
    values = [float(random.Random(i).random() > 0.4) for i in range(60)]
    once, repeated = bootstrap([[v] for v in values]), bootstrap([[v] * 10 for v in values])
    assert once == pytest.approx(repeated)
    independent = bootstrap([[v] for v in values for _ in range(10)])
    assert once and independent and independent.high - independent.low < 0.5 * (once.high - once.low)


def test_the_seed_determines_the_interval() -> None:
    assert bootstrap(UNEVEN, seed=1) == bootstrap(UNEVEN, seed=1)
    values = [[random.Random(i).random()] for i in range(30)]
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


@pytest.mark.parametrize("values", [[], [[]], [[], [0.5, 1.0]], [[1.0]]])
def test_fewer_than_two_requests_have_no_interval(values: list[list[float]]) -> None:
    assert bootstrap(values) is None


def test_equal_scores_have_an_interval_of_width_zero() -> None:
    assert bootstrap([[1.0]] * 5) == Interval(1.0, 1.0)


def test_a_difference_of_means_is_resampled_in_pairs() -> None:
    """Both means of a resample are over the same requests, so that a constant difference has no spread."""
    by_request = [[[x], [x - 0.25]] for x in (0.1, 0.9, 0.4, 0.7, 0.2)]
    assert bootstrap_of(by_request, lambda m: m[:, 0] - m[:, 1]) == pytest.approx((0.25, 0.25))


def test_a_request_that_lacks_one_kind_counts_in_the_other_kinds() -> None:
    """The request counts in the score as well; an interval over other requests might not contain the score."""
    good, bad = [[1.0], [1.0]], [[0.0], []]
    by_request = [good, bad] * 20
    assert bootstrap_of(by_request, lambda m: m[:, 0]) == bootstrap([kinds[0] for kinds in by_request])
    interval = bootstrap_of(by_request, lambda m: m.mean(axis=1))
    assert interval and 0.6 < interval.low < 0.75 < interval.high < 0.9
    assert bootstrap_of([*by_request, [[], []]], lambda m: m[:, 0]) == bootstrap_of(by_request, lambda m: m[:, 0])


def test_a_kind_that_only_one_request_has_gives_no_interval() -> None:
    two, one = [[[0.5], []]] * 8 + [[[0.5], [1.0]]] * 2, [[[0.5], []]] * 8 + [[[0.5], [1.0]]]
    assert bootstrap_of(two, lambda m: m.sum(axis=1)) == (1.5, 1.5), "resamples without the kind are counted"
    assert bootstrap_of(one, lambda m: m.sum(axis=1)) is None


def test_a_higher_level_gives_a_wider_interval() -> None:
    values = [[random.Random(i).random()] for i in range(50)]
    wide, narrow = bootstrap(values, level=0.99), bootstrap(values, level=0.5)
    assert wide and narrow and wide.low < narrow.low < narrow.high < wide.high
