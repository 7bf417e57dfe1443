"""Align the rows of a batch at their lookup tokens, and list the positions where a token is predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.methods.locate_edit.facts import Fact, Row
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.padding import unpadded_groups
from easyedit_lifelong.models.runner import Runner

_MAX_PADDING = 256
"""Largest number of padding tokens after the lookup tokens of a group. More padding costs time in attention. More
groups cost time, too, since each group reads all weights."""


@dataclass(frozen=True)
class BatchRow:
    """A row and the request that it belongs to.

    Attributes:
        request: index of the request in the batch.
        row: the row.
        is_first: whether this is the first context of the request.
        loss_weight: weight of the row's negative log-likelihood in the request's loss; 0 for an essence row.
    """

    request: int
    row: Row
    is_first: bool
    loss_weight: float

    @property
    def prompt_end(self) -> int:
        """Position of the last prompt token, counted from the lookup token."""
        return len(self.row.prompt) - 1 - self.row.lookup

    @property
    def suffix_length(self) -> int:
        """Number of tokens from the lookup token to the last position where a token is predicted, both included."""
        if not self.row.target:
            return 1  # an essence row, whose prediction is the one at its lookup token
        return self.prompt_end + len(self.row.target)


def group_rows(facts: Sequence[Fact], model: Any) -> list[list[BatchRow]]:
    """Return the rows of a batch in groups of similar suffix length, from the longest to the shortest.

    If padding changes the model's answers, the lookup tokens of a group are at one position, so that no row needs
    padding on the left.
    """
    batch_rows = []
    for request, fact in enumerate(facts):
        rows_with_target = len(fact.contexts) + len(fact.mentions)
        for i, row in enumerate(fact.rows):
            loss_weight = 1 / rows_with_target if row.target else 0.0
            batch_rows.append(BatchRow(request, row, i == 0, loss_weight))
    batch_rows.sort(key=lambda item: item.suffix_length, reverse=True)
    groups: list[list[BatchRow]] = []
    padding = 0
    for item in batch_rows:
        padding += groups[-1][0].suffix_length - item.suffix_length if groups else 0
        if not groups or padding > _MAX_PADDING:
            groups.append([])
            padding = 0
        groups[-1].append(item)
    return [
        [group[index] for index in part]
        for group in groups
        for part in unpadded_groups(model, [item.row.lookup for item in group])
    ]


@dataclass(frozen=True)
class AlignedRows:
    """A group of rows, padded on both sides so that all lookup tokens are in one column.

    A *prediction* is a position where the loss needs the logits. There is one for each target token, and one for each
    essence row. Tensors of predictions have those of the target tokens first.

    Attributes:
        ids: token ids, shape ``(rows, columns)``.
        mask: 1 for tokens and 0 for padding, same shape.
        lengths: number of prompt tokens of each row, shape ``(rows,)``, on the CPU.
        lookup_column: column of the lookup tokens.
        request: index of each row's request in the batch, shape ``(rows,)``.
        is_first: whether a row is the first context of its request, shape ``(rows,)``.
        prediction_row: row of each prediction, shape ``(targets + essences,)``.
        prediction_column: column of each prediction, counted from the lookup column, same shape.
        targets: the target tokens, shape ``(targets,)``.
        target_request: index of each target token's request, same shape.
        target_weight: weight of each target token in its request's loss (mean over tokens, then over contexts), same
            shape.
        essence_request: index of each essence row's request, shape ``(essences,)``.
        end_column: the column after the last prediction.
    """

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    lookup_column: int
    request: Tensor
    is_first: Tensor
    prediction_row: Tensor
    prediction_column: Tensor
    targets: Tensor
    target_request: Tensor
    target_weight: Tensor
    essence_request: Tensor
    end_column: int

    def prediction_mask(self) -> Tensor:
        """Return where predictions are, shape ``(rows, end_column - lookup_column)``."""
        shape = len(self.ids), self.end_column - self.lookup_column
        mask = torch.zeros(shape, dtype=torch.bool, device=self.ids.device)
        mask[self.prediction_row, self.prediction_column] = True
        return mask

    def select_rows(self, selected: Tensor) -> tuple[AlignedRows, Tensor]:
        """Return a selection of the rows, and which of the essence rows are in it.

        Args:
            selected: whether to select a row, shape ``(rows,)``.

        Returns:
            The selected rows, and a boolean tensor of shape ``(essences,)``.
        """
        new_index = selected.cumsum(dim=0) - 1
        in_selection = selected[self.prediction_row]
        targets, essences = in_selection[: len(self.targets)], in_selection[len(self.targets) :]
        rows = dataclasses.replace(
            self,
            ids=self.ids[selected],
            mask=self.mask[selected],
            lengths=self.lengths[selected.cpu()],
            request=self.request[selected],
            is_first=self.is_first[selected],
            prediction_row=new_index[self.prediction_row[in_selection]],
            prediction_column=self.prediction_column[in_selection],
            targets=self.targets[targets],
            target_request=self.target_request[targets],
            target_weight=self.target_weight[targets],
            essence_request=self.essence_request[essences],
        )
        return rows, essences


@dataclass(frozen=True)
class _TargetToken:
    """A target token of a row.

    Attributes:
        row: index of the row in its group.
        column: column at which the token is predicted, counted from the lookup column.
        token: its id.
        request: index of the request in the batch.
        weight: weight of the token in the request's loss.
    """

    row: int
    column: int
    token: int
    request: int
    weight: float


def align_rows(runner: Runner, batch_rows: Sequence[BatchRow]) -> AlignedRows:
    """Align a group of rows at their lookup tokens.

    The last target token is predicted and not read, so it is not in ``ids``. The prediction of an essence row is the
    one at its lookup token, as in MEMIT.
    """
    device, pad = runner.device, runner.pad
    rows = [item.row for item in batch_rows]
    left, left_mask = pad_rows([row.prompt[: row.lookup + 1] for row in rows], pad, "left", device)
    suffixes = [(row.prompt + row.target[:-1])[row.lookup + 1 :] for row in rows]
    right, right_mask = pad_rows(suffixes, pad, "right", device)
    targets = [
        _TargetToken(index, item.prompt_end + i, token, item.request, item.loss_weight / len(item.row.target))
        for index, item in enumerate(batch_rows)
        for i, token in enumerate(item.row.target)
    ]
    essences = [index for index, item in enumerate(batch_rows) if not item.loss_weight]

    def to_tensor(values: Sequence[float], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return AlignedRows(
        ids=torch.cat([left, right], dim=1),
        mask=torch.cat([left_mask, right_mask], dim=1),
        lengths=torch.tensor([len(row.prompt) for row in rows]),
        lookup_column=left.shape[1] - 1,
        request=to_tensor([item.request for item in batch_rows]),
        is_first=to_tensor([item.is_first for item in batch_rows], torch.bool),
        prediction_row=to_tensor([target.row for target in targets] + essences),
        prediction_column=to_tensor([target.column for target in targets] + [0] * len(essences)),
        targets=to_tensor([target.token for target in targets]),
        target_request=to_tensor([target.request for target in targets]),
        target_weight=to_tensor([target.weight for target in targets], torch.float64),
        essence_request=to_tensor([batch_rows[index].request for index in essences]),
        end_column=left.shape[1] - 1 + max(item.suffix_length for item in batch_rows),
    )
