"""Teacher-forced answers from prefix trees: common beginnings of questions are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from easyedit_lifelong.evaluation.answer_count import AnswerCount
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer, PairKey, forced_answer, key_of
from easyedit_lifelong.models.encoding import EncodedPair, batches_by_length
from easyedit_lifelong.models.partial_pass import head_at_positions
from easyedit_lifelong.models.plain_models import reads_rows_plainly
from easyedit_lifelong.models.prefix_tree import PrefixTree, pack_rows, tree_pass
from easyedit_lifelong.models.tree_support import supports_trees

Rows = list[list[EncodedPair]]
"""The questions of each row of a batch (:func:`.shared_rows`)."""

_WIDTHS = (128, 512)
"""Widths of trees. A tree holds rows of up to half its width: attention takes time for each pair of columns."""


@dataclass(frozen=True)
class TreeScorer:
    """Scores questions in prefix trees, where the model allows it and it saves time.

    Args:
        model: the model.
        head: its output head; None if logits cannot be computed at some positions only. Then there are no trees.
        pad: id of the padding token.
        tokens_per_batch: the largest number of tokens in a batch of trees, with padding.
    """

    model: Any
    head: nn.Module | None
    pad: int
    tokens_per_batch: int

    def score(self, rows: Rows, count: AnswerCount) -> tuple[dict[PairKey, ForcedAnswer], Rows]:
        """Score the questions of rows in trees.

        Args:
            rows: the rows.
            count: counts the answers.

        Returns:
            The answers; and the rows that must be scored separately.
        """
        answers: dict[PairKey, ForcedAnswer] = {}
        if self.head is None or not reads_rows_plainly(self.model):
            return answers, rows
        for width in _WIDTHS:
            short = [row for row in rows if row[0].length <= width // 2]
            trees, places = pack_rows([pair.tokens[:-1] for row in short for pair in row], width)
            tree_widths = [len(tree.tokens) for tree in trees]
            # A model is tried on as many tokens as a tree has, so small savings are not worth it.
            saved = self._columns([row[0].length - 1 for row in short]) - self._columns(tree_widths)
            if saved < width or not supports_trees(self.model, width):
                continue
            by_tree: list[list[tuple[EncodedPair, list[int]]]] = [[] for _ in trees]
            for pair, (tree, path) in zip((pair for row in short for pair in row), places, strict=True):
                by_tree[tree].append((pair, path))
            for batch in batches_by_length(tree_widths, self.tokens_per_batch):
                answers.update(self._score_batch([trees[n] for n in batch], [by_tree[n] for n in batch]))
                count.add(sum(len(by_tree[n]) for n in batch))
            rows = [row for row in rows if row[0].length > width // 2]
        return answers, rows

    def _columns(self, lengths: Sequence[int]) -> int:
        """Return how many columns batches of rows of these lengths have, padding included."""
        return sum(lengths[batch[0]] * len(batch) for batch in batches_by_length(lengths, self.tokens_per_batch))

    def _score_batch(
        self, trees: Sequence[PrefixTree], questions: Sequence[Sequence[tuple[EncodedPair, list[int]]]]
    ) -> Iterator[tuple[PairKey, ForcedAnswer]]:
        """Yield the key and the answer of each question in a batch of trees.

        Args:
            trees: the trees.
            questions: the questions of each tree, and the columns of their tokens but the last.
        """
        assert self.head is not None
        spans = [
            (pair, [(row, column) for column in path[len(pair.prompt) - 1 :]])
            for row, of_tree in enumerate(questions)
            for pair, path in of_tree
        ]
        place_of = {position: n for n, position in enumerate(dict.fromkeys(p for _, span in spans for p in span))}
        row_index, column_index = torch.tensor(list(place_of)).T
        with head_at_positions(self.head, row_index, column_index):
            logits = tree_pass(self.model, trees, self.pad)[0]
        for pair, span in spans:
            yield key_of(pair), forced_answer(logits[[place_of[position] for position in span]], pair.target)
