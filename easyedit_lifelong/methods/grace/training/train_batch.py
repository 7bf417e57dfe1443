"""Train the values of several edits in one batch, with the codebook's decisions as if they had been made one by one.

An edit's effect on the codebook depends on its query and its label, not on values, and queries don't depend
on the codebook. So the decisions of all edits are known before anything is trained. Only an edit that continues with
the value of another edit of the batch has to wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.optimise import Trained, initial_value, train_values
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass


@dataclass(frozen=True)
class PendingEdit:
    """An edit of a batch.

    Attributes:
        label: its target's tokens.
        identity: see :func:`~easyedit_lifelong.methods.grace.training.optimise.initial_value`.
        where: its name in messages.
        case_id: its request's.
        extras: gate and radius that its value is stored with; see :class:`.Codebook`. None for none.
    """

    label: Label
    identity: str
    where: str
    case_id: int | str
    extras: Tensor | None = None

    def with_extras(self, value: Tensor) -> Tensor:
        """Return a value as it is stored in the codebook."""
        return value if self.extras is None else torch.cat([value, self.extras.to(value)])


@dataclass(frozen=True)
class PlannedEdit:
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


def plan(
    codebook: Codebook, queries: Tensor, edits: Sequence[PendingEdit], fresh: Sequence[Tensor]
) -> list[PlannedEdit]:
    """Return what edits will do when they enter in order; the codebook is left as it was.

    Args:
        codebook: the codebook.
        queries: the edits' keys, shape ``(edits, views * key_size)``.
        edits: the edits.
        fresh: where each edit's value would start if it adds a key.
    """
    entered_by: dict[int, int] = {}
    planned, changes = list[PlannedEdit](), list[Change]()
    try:
        for number, (query, edit, start) in enumerate(zip(queries, edits, fresh, strict=True)):
            decision, match = codebook.decide(query, edit.label, edit.with_extras(start))
            after = None
            if decision in (Decision.EXPAND, Decision.COVERED):
                after, start = entered_by.get(match.index), codebook.values[match.index].clone()
            _, index, change = codebook.enter(query, edit.label, edit.with_extras(start), (decision, match))
            changes.append(change)
            entered_by[index] = number
            planned.append(PlannedEdit(decision, match, start, after))
    finally:
        codebook.undo(*changes)
    return planned


def train_batch(
    value_pass: ValuePass, planned: Sequence[PlannedEdit], edits: Sequence[PendingEdit], hparams: GraceHyperParams
) -> list[Trained]:
    """Train the values of all edits of a pass.

    Raises:
        EditError: one of them failed; the message names it.
    """
    copies = len(value_pass.targets) // len(edits)
    trained: dict[int, Trained] = {}
    while waiting := [n for n in range(len(edits)) if n not in trained]:
        wave = [n for n in waiting if planned[n].after is None or planned[n].after in trained]
        part = value_pass
        if len(wave) < len(edits):
            rows = torch.tensor([n * copies + copy for n in wave for copy in range(copies)])
            part = value_pass.select_rows(rows.to(value_pass.targets.device))
        starts = torch.stack([_start(planned[n], trained) for n in wave])
        identities, where = [edits[n].identity for n in wave], [edits[n].where for n in wave]
        trained |= dict(zip(wave, train_values(part, starts, hparams, identities, where), strict=True))
    return [trained[n] for n in range(len(edits))]


def fresh_values(value_pass: ValuePass, edits: Sequence[PendingEdit], hparams: GraceHyperParams) -> list[Tensor]:
    """Return where each edit's value would start if it adds a key."""
    copies = len(value_pass.targets) // len(edits)
    return [initial_value(hparams, value_pass.output[n * copies], edit.identity) for n, edit in enumerate(edits)]


def _start(planned: PlannedEdit, trained: Mapping[int, Trained]) -> Tensor:
    return planned.start if planned.after is None else trained[planned.after].value
