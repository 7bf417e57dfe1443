"""What GRACE's scores are measured with, by task: the m(f(x), y) of its section 4.

The paper measures question answering by F1, classification by accuracy, and the language modelling of its
hallucination task by perplexity. Those stand beside the token accuracies, under names of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.evaluation.scorer import Forced

_MOST = 50.0
"""Nats per token from which on a perplexity (5e21) says nothing more; averages stay finite."""


@dataclass(frozen=True)
class Task:
    """A kind of data.

    Attributes:
        name: what a dataset reader calls it.
        suffix: of its measure's names: ``ERR_<suffix>``.
        measure: of an answer under teacher forcing; None where free text is measured.
    """

    name: str
    suffix: str
    measure: Callable[[Forced], float] | None

    def forced(self, answer: Forced) -> float | None:
        """Return the task's measure of an answer, if it is taken under teacher forcing."""
        return None if self.measure is None else self.measure(answer)


def perplexity_of(answer: Forced) -> float:
    """Return exp(mean negative log-likelihood) of an answer's tokens; 5e21 stands for anything above it."""
    return math.exp(min(answer.nll, _MOST)) if math.isfinite(answer.nll) else math.exp(_MOST)


def whole_answer(answer: Forced) -> float:
    """Return 1 if every token of the answer is the model's own choice: then it is what the model says."""
    return float(answer.exact)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("qa", "f1", None),
        Task("classification", "acc", whole_answer),
        Task("generation", "ppl", perplexity_of),
    )
}


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
        HyperParameterError: there is none of that name.
    """
    if name not in TASKS:
        raise HyperParameterError(f"task: {name!r} is none of {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    return TASKS[name]
