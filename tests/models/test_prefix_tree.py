"""Prefix trees: every row is a path, common beginnings are stored once, and a token sees its own text alone."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.models.prefix_tree import PrefixTree, pack_rows, tree_inputs
from tests.support.thoroughness import examples

_ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), min_size=1, max_size=30)


@examples(100)
@given(_ROWS, st.integers(8, 20))
def test_each_row_is_a_path_in_a_tree_of_limited_width(rows: list[list[int]], width: int) -> None:
    trees, places = pack_rows(rows, width)
    for row, (number, path) in zip(rows, places, strict=True):
        tree = trees[number]
        assert [tree.tokens[column] for column in path] == row
        assert [tree.positions[column] for column in path] == list(range(len(row)))
        assert [tree.parents[column] for column in path] == [-1, *path[:-1]]
    for number, tree in enumerate(trees):
        assert len(tree.tokens) <= width
        beginnings = {
            tuple(row[: n + 1])
            for row, (of, _) in zip(rows, places, strict=True)
            for n in range(len(row))
            if of == number
        }
        assert len(tree.tokens) == len(beginnings), "a common beginning is stored twice, or a column is in no row"


def test_rows_with_a_common_beginning_share_a_tree() -> None:
    rows = [[1, 2, 3, n] for n in range(5)] + [[4, 2, 3, n] for n in range(5)]
    trees, places = pack_rows(rows[::2] + rows[1::2], 8)
    assert [len(tree.tokens) for tree in trees] == [8, 8]
    assert len({number for number, _ in places}) == 2


def test_a_token_sees_its_own_text_alone() -> None:
    tree, other = PrefixTree(), PrefixTree()
    paths = [tree.add(row) for row in ([5, 6, 7], [5, 6, 8], [9])]
    other.add([5])
    assert tree.new_columns([5, 6, 8, 1]) == 1
    inputs = tree_inputs([tree, other], pad=2, dtype=torch.float64)
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9], [5, 2, 2, 2, 2]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 2, 0], [0, 0, 0, 0, 0]]
    seen = inputs["attention_mask"] == 0
    assert seen.shape == (2, 1, 5, 5) and inputs["attention_mask"].dtype == torch.float64
    expected = torch.eye(5, dtype=torch.bool)
    for path in paths:
        for place, column in enumerate(path):
            expected[column, path[: place + 1]] = True
    assert torch.equal(seen[0, 0], expected)
    assert torch.equal(seen[1, 0], torch.eye(5, dtype=torch.bool)), "padding sees itself alone"
