"""Each task scores answers by its measure."""

from __future__ import annotations

import math

import pytest

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.tasks import TASKS, task_named
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer

HALF_RIGHT = ForcedAnswer((1, 9), (1, 2), math.log(4))
RIGHT = ForcedAnswer((1, 2), (1, 2), 0.0)


def test_generation_scores_a_perplexity_that_stays_finite() -> None:
    task = task_named("generation")
    assert task.forced(HALF_RIGHT) == pytest.approx(4.0)
    assert task.forced(RIGHT) == 1.0
    for broken in (float("nan"), float("inf"), 1e6):
        assert task.forced(ForcedAnswer((0,), (1,), broken)) == pytest.approx(5.18e21, rel=0.01)


def test_classification_scores_the_whole_label() -> None:
    assert task_named("classification").forced(HALF_RIGHT) == 0.0
    assert task_named("classification").forced(RIGHT) == 1.0


def test_qa_has_no_teacher_forced_score() -> None:
    assert task_named("qa").forced(HALF_RIGHT) is None


def test_every_task_has_metrics_of_its_kind_and_direction() -> None:
    for task in TASKS.values():
        for name in ("ERR", "TRR"):
            spec = METRICS[f"{name}_{task.suffix}"]
            assert spec.direction == ("lower" if task.name == "generation" else "higher")
            assert spec.kind == ("generated" if task.name == "qa" else "teacher-forced")


def test_an_unknown_task_is_refused_with_a_suggestion() -> None:
    with pytest.raises(HyperParameterError, match=r"task: 'generations' is none of .* Did you mean 'generation'\?"):
        task_named("generations")
