"""Train the values of several edits together, with the codebook's decisions as if they had come one by one.

What an edit does to the codebook depends on its query and its label, not on values, and queries don't depend
on the codebook. So the decisions of all are known before anything is trained. Only an edit that goes on with the
value of another one of them has to wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Decision, Label, Match
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.optimise import Trained, initial_value, train_values
from easyedit_lifelong.methods.grace.training.value_pass import Lesson


@dataclass(frozen=True)
class Learner:
    """An edit of a batch.

    Attributes:
        label: its target's tokens.
        identity: see :func:`~easyedit_lifelong.methods.grace.training.optimise.initial_value`.
        where: what to call it in messages.
        case_id: its request's.
        behind: what its value brings along; see :class:`.Codebook`. None for
            nothing.
    """

    label: Label
    identity: str
    where: str
    case_id: int | str
    behind: Tensor | None = None

    def entering(self, value: Tensor) -> Tensor:
        """Return a value of its own as it enters the codebook."""
        return value if self.behind is None else torch.cat([value, self.behind.to(value)])


@dataclass(frozen=True)
class Planned:
    """What an edit will do to the codebook.

    Attributes:
        decision: what it is.
        match: the key nearest to it by then.
        start: where its value starts, shape ``(value_size,)``.
        after: the edit of the batch whose trained value it starts from instead; None if there is none.
    """

    decision: Decision
    match: Match
    start: Tensor
    after: int | None


def plan(codebook: Codebook, queries: Tensor, learners: Sequence[Learner], fresh: Sequence[Tensor]) -> list[Planned]:
    """Return what edits will do when they enter in order; the codebook is left as it was.

    Args:
        codebook: the codebook.
        queries: theirs, shape ``(edits, views * key_size)``.
        learners: the edits.
        fresh: where a value of their own would start.
    """
    entered_by: dict[int, int] = {}
    planned, changes = [], []
    try:
        for number, (query, learner, own) in enumerate(zip(queries, learners, fresh, strict=True)):
            label = learner.label
            decision, match = codebook.decide(query, label, learner.entering(own))
            goes_on = decision in (Decision.EXPAND, Decision.COVERED)
            after = entered_by.get(match.index) if goes_on else None
            start = codebook.values[match.index].clone() if goes_on else own
            _, index, change = codebook.enter(query, label, learner.entering(start), (decision, match))
            changes.append(change)
            entered_by[index] = number
            planned.append(Planned(decision, match, start, after))
    finally:
        for change in reversed(changes):
            codebook.undo(change)
    return planned


def train_together(
    lesson: Lesson, planned: Sequence[Planned], learners: Sequence[Learner], hparams: GraceHyperParams
) -> list[Trained]:
    """Train the values of all edits of a lesson.

    Raises:
        EditError: one of them failed; the message names it.
    """
    copies = len(lesson.targets) // len(learners)
    trained: dict[int, Trained] = {}
    waiting = list(range(len(learners)))
    while waiting:
        wave = [n for n in waiting if planned[n].after is None or planned[n].after in trained]
        part = lesson
        if len(wave) < len(learners):
            rows = torch.tensor([n * copies + copy for n in wave for copy in range(copies)])
            part = lesson.taking(rows.to(lesson.targets.device))
        starts = torch.stack([_start_of(planned[n], trained) for n in wave])
        identities, where = [learners[n].identity for n in wave], [learners[n].where for n in wave]
        trained |= dict(zip(wave, train_values(part, starts, hparams, identities, where), strict=True))
        waiting = [n for n in waiting if n not in trained]
    return [trained[n] for n in range(len(learners))]


def fresh_values(lesson: Lesson, learners: Sequence[Learner], hparams: GraceHyperParams) -> list[Tensor]:
    """Return where each edit's value would start if it gets one of its own."""
    copies = len(lesson.targets) // len(learners)
    return [initial_value(hparams, lesson.output[n * copies], one.identity) for n, one in enumerate(learners)]


def _start_of(planned: Planned, trained: dict[int, Trained]) -> Tensor:
    return planned.start if planned.after is None else trained[planned.after].value
