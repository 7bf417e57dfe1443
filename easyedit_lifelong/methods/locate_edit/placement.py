"""Align a batch's rows at their look-up tokens, and tell where in them something is predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.locate_edit.facts import Fact, Row
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner

_PADDING = 256
"""Largest number of columns of padding in a group of rows. Only attention computes them, but that costs time; so does
another group, which reads all weights again."""


@dataclass(frozen=True)
class OwnedRow:
    """A row and its request.

    Attributes:
        owner: number of its request in the batch.
        row: the row.
        first: whether it is that request's first context.
        share: weight of its likelihood in its request's loss; 0 for an essence row.
    """

    owner: int
    row: Row
    first: bool
    share: float

    @property
    def suffix_length(self) -> int:
        """Number of tokens from the look-up token to the last at which something is predicted."""
        return len(self.row.prompt) + len(self.row.target) - 1 - self.row.lookup if self.row.target else 1


def group_rows(facts: Sequence[Fact]) -> list[list[OwnedRow]]:
    """Return the rows of a batch, in groups that need little padding behind the look-up token."""
    owned = [
        OwnedRow(owner, row, i == 0, 1 / (len(fact.contexts) + len(fact.mentions)) if row.target else 0.0)
        for owner, fact in enumerate(facts)
        for i, row in enumerate(fact.rows)
    ]
    owned.sort(key=lambda item: item.suffix_length, reverse=True)
    groups: list[list[OwnedRow]] = []
    padding = 0
    for item in owned:
        padding += groups[-1][0].suffix_length - item.suffix_length if groups else 0
        if not groups or padding > _PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(item)
    return groups


@dataclass(frozen=True)
class Placement:
    """Rows of tokens whose look-up tokens are in one column.

    Attributes:
        ids: tokens, padded on both sides, shape ``(rows, columns)``.
        mask: which of them are real, same shape.
        lengths: number of prompt tokens of each row, shape ``(rows,)``, on the CPU.
        start: column of the look-up tokens.
        owner: number of each row's request, shape ``(rows,)``.
        first: which rows are their request's first context, shape ``(rows,)``.
        rows: row of every place at which something is predicted, targets before essences.
        columns: its column, counted from the look-up token; same shape.
        targets: the target tokens predicted at the first of these places, shape ``(targets,)``.
        target_owner: number of each one's request, same shape.
        target_weight: its share of the request's loss (mean over tokens, then over contexts), same shape.
        essence_owner: number of each essence row's request, shape ``(essences,)``.
        end: column after the last place.
    """

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    start: int
    owner: Tensor
    first: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    target_owner: Tensor
    target_weight: Tensor
    essence_owner: Tensor
    end: int

    def predicted(self) -> Tensor:
        """Return where something is predicted, shape ``(rows, columns from the look-up token to the last place)``."""
        predicted = torch.zeros(len(self.ids), self.end - self.start, dtype=torch.bool, device=self.ids.device)
        predicted[self.rows, self.columns] = True
        return predicted

    def keep(self, kept: Tensor) -> tuple[Placement, Tensor]:
        """Return the placement of some of the rows, and which of the essences are among them.

        Args:
            kept: which rows, shape ``(rows,)``.
        """
        number = kept.cumsum(dim=0) - 1
        targets, essences = kept[self.rows[: len(self.targets)]], kept[self.rows[len(self.targets) :]]
        places = torch.cat([targets, essences])
        placement = dataclasses.replace(
            self,
            ids=self.ids[kept],
            mask=self.mask[kept],
            lengths=self.lengths[kept.cpu()],
            owner=self.owner[kept],
            first=self.first[kept],
            rows=number[self.rows[places]],
            columns=self.columns[places],
            targets=self.targets[targets],
            target_owner=self.target_owner[targets],
            target_weight=self.target_weight[targets],
            essence_owner=self.essence_owner[essences],
        )
        return placement, essences


def place(runner: Runner, owned: Sequence[OwnedRow]) -> Placement:
    """Align rows.

    The last target token is only predicted, so it is no input. The prediction of an essence row is the one at the end
    of its subject, as in MEMIT.
    """
    device, pad = runner.device, runner.pad
    rows = [item.row for item in owned]
    left, left_mask = pad_rows([row.prompt[: row.lookup + 1] for row in rows], pad, "left", device)
    read = [(row.prompt + row.target[:-1])[row.lookup + 1 :] for row in rows]
    right, right_mask = pad_rows(read, pad, "right", device)
    ends = [len(row.prompt) - 1 - row.lookup for row in rows]
    numbered = list(enumerate(zip(owned, ends, strict=True)))
    targets = [
        (number, end + step, token, item.owner, item.share / len(item.row.target))
        for number, (item, end) in numbered
        for step, token in enumerate(item.row.target)
    ]
    essences = [(number, 0, item.owner) for number, (item, _) in numbered if not item.share]

    def column(values: Sequence[float], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Placement(
        ids=torch.cat([left, right], dim=1),
        mask=torch.cat([left_mask, right_mask], dim=1),
        lengths=torch.tensor([len(row.prompt) for row in rows]),
        start=left.shape[1] - 1,
        owner=column([item.owner for item in owned]),
        first=column([item.first for item in owned], torch.bool),
        rows=column([target[0] for target in targets] + [essence[0] for essence in essences]),
        columns=column([target[1] for target in targets] + [essence[1] for essence in essences]),
        targets=column([target[2] for target in targets]),
        target_owner=column([target[3] for target in targets]),
        target_weight=column([target[4] for target in targets], torch.float64),
        essence_owner=column([essence[2] for essence in essences]),
        end=left.shape[1] - 1 + max(item.suffix_length for item in owned),
    )
