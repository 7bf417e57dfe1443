"""The schedule: at which steps past edits are scored."""

from __future__ import annotations

from typing import Any

import pytest

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.runs.schedule import Schedule


def scored_steps(schedule: Schedule, edits: list[int]) -> list[int]:
    """Return the steps that are scored; ``edits`` is the number of edits after each step."""
    before = [0, *edits]
    return [n for n, after in enumerate(edits, 1) if schedule.due(n, before[n - 1], after)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(1), [1, 2, 3, 4, 5, 6, 7]),
        (Schedule(3), [3, 6]),
        (Schedule(), []),
        (Schedule(8), []),
        (Schedule(at=(1, 5)), [1, 5]),
        (Schedule(3, (1, 3, 100)), [1, 3, 6]),
    ],
)
def test_steps_of_one_edit_are_scored_at_every_interval_and_point(schedule: Schedule, expected: list[int]) -> None:
    assert scored_steps(schedule, list(range(1, 8))) == expected


def test_points_beyond_the_last_edit_are_known() -> None:
    assert Schedule(at=(1, 10, 11, 100)).beyond(10) == [11, 100]
    assert Schedule(every=50).beyond(10) == []


def test_a_batch_that_passes_a_point_is_scored() -> None:
    """Each step is a batch of four, the second fails; ``at`` counts edits, ``every`` counts steps."""
    assert scored_steps(Schedule(at=(1, 4, 5, 6, 12)), [4, 4, 8, 12]) == [1, 3, 4]
    assert scored_steps(Schedule(2), [4, 4, 8, 12]) == [2, 4]


def test_the_default_interval_applies_without_every_and_at() -> None:
    assert Schedule.of(None).with_default(50) == Schedule(50)
    assert Schedule.of(None, sample=3).with_default(50) == Schedule(50, sample=3)
    assert Schedule.of(None, (10, 1, 10)).with_default(50) == Schedule(None, (1, 10))
    assert Schedule.of(5, (10,), 3).with_default(50) == Schedule(5, (10,), 3)
    assert Schedule.of(5, (10,), 3).to_dict() == {"every": 5, "at": [10], "sample": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "eval_every: 0 is less than 1"),
        ({"every": -3}, "eval_every: -3"),
        ({"every": 1.5}, "eval_every: 1.5 is not a whole number"),
        ({"every": True}, "eval_every: True"),
        ({"every": None, "at": (1, 0)}, "eval_at: 0 is less"),
        ({"every": None, "sample": 0}, "eval_sample: 0 is less"),
    ],
)
def test_invalid_numbers_are_refused_with_their_option(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        Schedule.of(**arguments)
