"""Pack rows of tokens as prefix trees, so that a model computes tokens that rows have in common once.

A prefix tree is one row of the model's input. An attention mask with an entry for each pair of tokens lets each token
see only the tokens of the same text, and its position is that in the text. In a causal model, a token's hidden state
depends on the tokens up to it. So the logits are those of separate rows, up to rounding. This is the tree attention of
speculative decoding (SpecInfer, arXiv 2305.09781), for given texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.models.devices import input_device

_OPEN_TREES = 8
"""The number of trees that a further row can be added to. The others are nearly full."""


class PrefixTree:
    """Rows of tokens whose common beginnings are stored once.

    Attributes:
        tokens: the token of each column.
        positions: the position of each column's token in its text.
        parents: the column of the token before it; -1 for a first token. A parent's column is the smaller one.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.parents: list[int] = []
        self._columns: dict[tuple[int, int], int] = {}

    def new_columns(self, row: Sequence[int]) -> int:
        """Return how many columns :meth:`add` would add for a row of tokens."""
        parent = -1
        for position, token in enumerate(row):
            column = self._columns.get((parent, token))
            if column is None:
                return len(row) - position
            parent = column
        return 0

    def add(self, row: Sequence[int]) -> list[int]:
        """Add a row of tokens, and return the column of each of its tokens."""
        parent, path = -1, []
        for position, token in enumerate(row):
            column = self._columns.setdefault((parent, token), len(self.tokens))
            if column == len(self.tokens):
                self.tokens.append(token)
                self.positions.append(position)
                self.parents.append(parent)
            path.append(column)
            parent = column
        return path


def pack_rows(rows: Sequence[list[int]], width: int) -> tuple[list[PrefixTree], list[tuple[int, list[int]]]]:
    """Pack rows of tokens in prefix trees of limited width.

    Args:
        rows: the rows, none longer than ``width``.
        width: the largest number of columns of a tree.

    Returns:
        The trees; and for each row, in order, the number of its tree and the column of each of its tokens.
    """
    trees: list[PrefixTree] = []
    places: list[tuple[int, list[int]]] = [(0, [])] * len(rows)
    open_trees: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: rows[i]):  # rows with a common beginning follow each other
        row = rows[index]
        sizes = [(trees[n].new_columns(row), len(trees[n].tokens), n) for n in open_trees]
        fitting = [(new, -size, n) for new, size, n in sizes if size + new <= width]
        if fitting:
            number = min(fitting)[2]
        else:
            number = len(trees)
            trees.append(PrefixTree())
            open_trees.append(number)
            if len(open_trees) > _OPEN_TREES:
                open_trees.remove(max(open_trees, key=lambda n: len(trees[n].tokens)))
        places[index] = (number, trees[number].add(row))
    return trees, places


def tree_inputs(trees: Sequence[PrefixTree], pad: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the arguments of a model's pass over prefix trees, on the CPU.

    Args:
        trees: the trees; each is a row, padded on the right.
        pad: id of the padding token.
        dtype: the model's dtype.

    Returns:
        ``input_ids`` and ``position_ids``, shape ``(trees, columns)``; and ``attention_mask``, shape
        ``(trees, 1, columns, columns)``: 0 where a token sees another one, the smallest number of the dtype elsewhere.
    """
    columns = max(len(tree.tokens) for tree in trees)
    ids = torch.full((len(trees), columns), pad)
    positions = torch.zeros_like(ids)
    # Padding sees itself: a row of the mask without any visible token gives NaN.
    seen = torch.eye(columns, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        positions[row, : len(tree.tokens)] = torch.tensor(tree.positions)
        visible = seen[row].numpy()
        for column, parent in enumerate(tree.parents):
            if parent >= 0:
                visible[column] |= visible[parent]
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}


def tree_pass(model: Any, trees: Sequence[PrefixTree], pad: int) -> Tensor:
    """Return the logits of a pass over prefix trees, shape ``(trees, columns, vocabulary)``.

    Args:
        model: a causal language model that computes trees (:func:`.supports_trees`).
        trees: the trees.
        pad: id of the padding token.
    """
    device = input_device(model)
    inputs = {name: value.to(device) for name, value in tree_inputs(trees, pad, model.dtype).items()}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits
