"""The measure of each task: m(f(x), y) in section 4 of GRACE (arXiv 2211.11031), for ES, ERR and TRR.

The paper measures question answering by F1, classification by accuracy, and text generation (its hallucination task) by
perplexity. These scores are reported in addition to token accuracies, with the task's suffix (``ERR_f1``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.evaluation.perplexity import bounded_perplexity

if TYPE_CHECKING:
    from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer


@dataclass(frozen=True)
class Task:
    """A task, and its measure.

    Attributes:
        name: the task's name in dataset readers and experiment files.
        suffix: the suffix of the scores in this measure: ``ERR_<suffix>``.
        measure: the measure of a teacher-forced answer; None if the task measures generated answers.
    """

    name: str
    suffix: str
    measure: Callable[[ForcedAnswer], float] | None

    def forced(self, answer: ForcedAnswer) -> float | None:
        """Return the measure of a teacher-forced answer; None if the task measures generated answers."""
        return None if self.measure is None else self.measure(answer)


def answer_perplexity(answer: ForcedAnswer) -> float:
    """Return the perplexity of an answer's tokens."""
    return bounded_perplexity(answer.nll)


def exact_answer(answer: ForcedAnswer) -> float:
    """Return 1 if the model predicts every token of the answer, else 0."""
    return float(answer.exact)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("qa", "f1", None),
        Task("classification", "acc", exact_answer),
        Task("generation", "ppl", answer_perplexity),
    )
}
"""All tasks, by name."""


def task_named(name: str) -> Task:
    """Return the task of this name.

    Raises:
        HyperParameterError: there is no such task.
    """
    if name not in TASKS:
        raise HyperParameterError(f"task: {name!r} is none of {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]
