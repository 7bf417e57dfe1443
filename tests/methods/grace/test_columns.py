"""A codebook in columns is the codebook that was stored, with the changes of its edits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import KeyTensors
from easyedit_lifelong.methods.grace.codebook.columns import columns_of, read_columns
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Row
from tests.support.thoroughness import examples

Edit = tuple[int, int, int]

streams = st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 2)), min_size=1, max_size=25)


def new_codebook() -> Codebook:
    return Codebook(2, 3, eps=1.0)


def insert(codebook: Codebook, edit: Edit, number: int) -> Change:
    """Insert an edit; every third edit also has a further key, and every fifth two other names."""
    x, y, label = edit
    query, value = torch.tensor([x / 2, y / 2]), torch.full((3,), float(number))
    _, _, change = codebook.insert(query, (label,) * (label + 1), value)
    if number % 5 == 3:
        names = [(torch.tensor([x / 2 + 3, y / 2 - step]), value + step) for step in (1, 2)]
        change = codebook.add_other_names(change, (label,) * (label + 1), names)
    if number % 3:
        return change
    tensors = KeyTensors(torch.tensor([1.0, x, y, number]), torch.full((3,), -float(number)), torch.tensor(0.1))
    return codebook.add_further_keys(change, [Row(0, (label, 9), tensors)])


def built(stream: list[Edit]) -> tuple[Codebook, list[Change]]:
    codebook = new_codebook()
    changes = [insert(codebook, edit, number) for number, edit in enumerate(stream)]
    codebook.hits.update({0: 3, len(codebook) - 1: 1})
    return codebook, changes


def reopened(columns: Mapping[str, Tensor]) -> tuple[Codebook, list[Change]]:
    """Return what the columns hold after they were written to a file."""
    codebook = new_codebook()
    read = load(save({name: column.contiguous() for name, column in columns.items()}))
    return codebook, read_columns(codebook, read)  # type: ignore[return-value]


def states_of(codebook: Codebook) -> str:
    further = codebook.further_keys
    rows = [codebook.row(index) for index in range(len(codebook))]
    return str((rows, codebook.hits, [] if further is None else [further.row(index) for index in range(len(further))]))


@examples(100)
@given(streams)
def test_columns_hold_the_codebook_and_the_changes(stream: list[Edit]) -> None:
    expected, expected_changes = built(stream)
    codebook, changes = reopened(columns_of(expected, expected_changes))
    assert states_of(codebook) == states_of(expected)
    assert str(list(changes)) == str(expected_changes)


@examples(100)
@given(streams, streams)
def test_a_reopened_codebook_is_edited_undone_and_stored_as_the_original(first: list[Edit], more: list[Edit]) -> None:
    expected, expected_changes = built(first)
    codebook, changes = reopened(columns_of(expected, expected_changes))
    for number, edit in enumerate(more, len(first)):
        expected_changes.append(insert(expected, edit, number))
        changes.append(insert(codebook, edit, number))
        queries = torch.tensor([[edit[0] / 2, edit[1] / 2], [0.25, 0.0], [-1.0, 1.5]])
        assert codebook.lookup(queries).tolist() == expected.lookup(queries).tolist()
    assert states_of(codebook) == states_of(expected)
    again, changes_again = reopened(columns_of(codebook, changes))
    assert states_of(again) == states_of(expected)
    assert str(list(changes_again)) == str(expected_changes)
    while changes:
        codebook.undo(changes.pop())
        expected.undo(expected_changes.pop())
        assert states_of(codebook) == states_of(expected)


def test_a_search_in_a_reopened_codebook_reads_no_key_that_its_table_rules_out() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = Codebook(64, 1, eps=0.1)
    for key in torch.randn(300, 64, generator=generator):
        codebook.insert(key, (1,), torch.zeros(1))
    columns = columns_of(codebook, [Change(number) for number in range(300)])
    queries = torch.cat([codebook.keys[5:6], torch.randn(3, 64, generator=generator)])
    columns["keys"] = torch.full_like(columns["keys"], float("nan"))
    columns["keys"][5] = queries[0]
    reopened_codebook = Codebook(64, 1, eps=0.1)
    read_columns(reopened_codebook, columns)
    assert reopened_codebook.lookup(queries).tolist() == [5, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("change_lengths", torch.tensor([0, 2, 1])),
        ("change_lengths", torch.tensor([0, 1, 9])),
        ("values", torch.zeros(2, 4)),
        ("keys", torch.zeros(1, 2)),
        ("radii", torch.tensor([1.0, -1.0])),
        ("radii", torch.tensor([1.0, float("nan")])),
        ("label_ends", torch.tensor([1, 9])),
        ("changed_keys", torch.tensor([7])),
        ("changed_edits", torch.tensor([3])),
        ("earlier_keys", torch.zeros(2, 2)),
        ("queries", torch.zeros(3, 2)),
        ("hit_keys", torch.tensor([0, 5])),
        ("search_table", torch.zeros(6, 1, dtype=torch.float64)),
        ("further_counts", torch.tensor([1, 1, 1])),
        ("further_radii", torch.tensor([-1.0])),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(name: str, column: Tensor) -> None:
    codebook, changes = built([(0, 0, 1), (0, 1, 1), (9, 9, 2)])  # the second is covered by the first
    columns = columns_of(codebook, changes)
    assert name in columns
    with pytest.raises(ValueError, match=r"fit|for 2 keys"):
        reopened({**columns, name: column})


@pytest.mark.parametrize("counts", [[0, 0, 0, 1], [0, 0, 0, -1], [0, 0, 3, 0]])
def test_numbers_of_other_names_that_do_not_fit_are_refused(counts: list[int]) -> None:
    codebook, changes = built([(0, 0, 1), (0, 6, 1), (6, 0, 2), (6, 6, 2)])
    columns = columns_of(codebook, changes)
    assert columns["other_name_counts"].tolist() == [0, 0, 0, 2]
    with pytest.raises(ValueError, match="other_name_counts"):
        reopened({**columns, "other_name_counts": torch.tensor(counts)})
