"""The measures of edit and retention rates, by task: m(f(x), y) in section 4 of GRACE (arXiv 2211.11031).

The paper measures question answering by F1, classification by accuracy, and the language modelling of its
hallucination task by perplexity. These scores are reported beside the token accuracies, under separate names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from easyedit_lifelong.errors import HyperParameterError, did_you_mean
from easyedit_lifelong.evaluation.forced import Forced
from easyedit_lifelong.evaluation.text import bounded_perplexity


@dataclass(frozen=True)
class Task:
    """A kind of data.

    Attributes:
        name: its name in dataset readers and experiment files.
        suffix: of its measure's names: ``ERR_<suffix>``.
        measure: of an answer under teacher forcing; None where free text is measured.
    """

    name: str
    suffix: str
    measure: Callable[[Forced], float] | None

    def forced(self, answer: Forced) -> float | None:
        """Return the task's measure of an answer, if it is taken under teacher forcing."""
        return None if self.measure is None else self.measure(answer)


def answer_perplexity(answer: Forced) -> float:
    """Return the perplexity of an answer's tokens."""
    return bounded_perplexity(answer.nll)


def whole_answer(answer: Forced) -> float:
    """Return 1 if every token of the answer is the model's own choice: then the model gives this answer."""
    return float(answer.exact)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("qa", "f1", None),
        Task("classification", "acc", whole_answer),
        Task("generation", "ppl", answer_perplexity),
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
