"""Train the values of several edits in one batch, with the same decisions as one by one.

A decision depends on the edit's query and label, not on values, and queries do not depend on the codebook. So the
decisions of all edits are known before any value is trained. Only an edit that continues from the value of another edit
of the batch has to be trained after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision, Label, Match
from easyedit_lifelong.methods.grace.codebook.edit_history import all_keys_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.optimise import TrainedValue, initial_value
from easyedit_lifelong.methods.grace.training.restricted_training import train_and_check
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, rows_of_edits


@dataclass(frozen=True)
class OtherKey:
    """The key of another name of an edit's subject.

    Attributes:
        query: shape ``(vectors_per_key * key_size,)``.
        extras: gate and radius to store with the edit's value at this key; see :class:`PendingEdit`.
    """

    query: Tensor
    extras: Tensor


@dataclass(frozen=True)
class PendingEdit:
    """An edit whose value is to be trained.

    Attributes:
        label: the target tokens.
        identity: a text that identifies the edit, for random numbers; see :func:`.initial_value`.
        where: the edit's name in messages.
        case_id: the case_id of the request.
        extras: gate and radius to store with the value, see :class:`.KeyStore`; None without them.
        other_keys: the keys of the other names of its subject.
    """

    label: Label
    identity: str
    where: str
    case_id: int | str
    extras: Tensor | None = None
    other_keys: Sequence[OtherKey] = ()

    def with_extras(self, value: Tensor) -> Tensor:
        """Return a value as the codebook stores it: followed by gate and radius, if there are any."""
        return value if self.extras is None else torch.cat([value, self.extras.to(value)])

    def insert_other_keys(self, codebook: Codebook, change: Change, value: Tensor) -> Change:
        """Insert the keys of the other names into a codebook, with a value; return the edit's change with theirs.

        Args:
            codebook: the codebook, whose last edit is this one.
            change: what the edit has changed so far.
            value: the edit's value.
        """
        keys = [(other.query, torch.cat([value, other.extras.to(value)])) for other in self.other_keys]
        return codebook.add_other_names(change, self.label, keys)


@dataclass(frozen=True)
class PlannedEdit:
    """What an edit will do to the codebook.

    Attributes:
        decision: the decision.
        match: the nearest key that the edit competes with, after the earlier edits of the batch.
        start: the initial value, shape ``(value_size,)``.
        predecessor: number of an earlier edit of the batch, whose trained value is the initial value instead of
            ``start``; None if there is none.
    """

    decision: Decision
    match: Match
    start: Tensor
    predecessor: int | None


def plan_edits(
    codebook: Codebook, queries: Tensor, edits: Sequence[PendingEdit], fresh: Sequence[Tensor]
) -> list[PlannedEdit]:
    """Return what edits will do when they are inserted in order. The codebook is afterwards what it was before.

    Args:
        codebook: the codebook.
        queries: the edits' queries, shape ``(edits, vectors_per_key * key_size)``.
        edits: the edits.
        fresh: for each edit, the initial value that it has if it adds a key.
    """
    last_edit_of_key: dict[int, int] = {}
    planned, changes = list[PlannedEdit](), list[Change]()
    try:
        for number, (query, edit, start) in enumerate(zip(queries, edits, fresh, strict=True)):
            decision, match = codebook.decide(query, edit.label, edit.with_extras(start))
            predecessor = None
            if decision in (Decision.EXPAND, Decision.COVERED):  # training continues from the key's value
                predecessor = last_edit_of_key.get(match.index)
                start = codebook.row(match.index).tensors.value[: codebook.value_size]
            _, _, change = codebook.insert(query, edit.label, edit.with_extras(start), (decision, match))
            changes.append(change)
            changes[-1] = edit.insert_other_keys(codebook, change, start)
            (keys,) = all_keys_of(codebook, changes[-1:])
            last_edit_of_key |= dict.fromkeys(keys, number)
            planned.append(PlannedEdit(decision, match, start, predecessor))
    finally:
        codebook.undo(*changes)
    return planned


def train_batch(
    value_pass: ValuePass, planned: Sequence[PlannedEdit], edits: Sequence[PendingEdit], hparams: GraceHyperParams
) -> list[TrainedValue]:
    """Train the values of all edits of a pass, those with a predecessor after it.

    Returns:
        One trained value per edit.

    Raises:
        EditError: the training of an edit failed; the message names the edit.
    """
    copies = len(value_pass.targets) // len(edits)
    trained: dict[int, TrainedValue] = {}
    while waiting := [n for n in range(len(edits)) if n not in trained]:
        ready = [n for n in waiting if planned[n].predecessor is None or planned[n].predecessor in trained]
        ready_pass = value_pass
        if len(ready) < len(edits):
            rows = torch.tensor(rows_of_edits(ready, copies))
            ready_pass = value_pass.select_rows(rows.to(value_pass.targets.device))
        starts = torch.stack([_initial_value(planned[n], trained) for n in ready])
        identities, where = [edits[n].identity for n in ready], [edits[n].where for n in ready]
        trained |= dict(zip(ready, train_and_check(ready_pass, starts, hparams, identities, where), strict=True))
    return [trained[n] for n in range(len(edits))]


def initial_values(value_pass: ValuePass, edits: Sequence[PendingEdit], hparams: GraceHyperParams) -> list[Tensor]:
    """Return for each edit the initial value that it has if it adds a key."""
    copies = len(value_pass.targets) // len(edits)
    return [initial_value(hparams, value_pass.output[n * copies], edit.identity) for n, edit in enumerate(edits)]


def _initial_value(planned: PlannedEdit, trained: Mapping[int, TrainedValue]) -> Tensor:
    """Return the value from which an edit is trained."""
    return planned.start if planned.predecessor is None else trained[planned.predecessor].value
