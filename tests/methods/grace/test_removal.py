"""Removal of edits from a codebook gives bitwise the codebook that the other edits build."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook import removal
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision
from easyedit_lifelong.methods.grace.codebook.edit_history import all_keys_of, decision_of, keys_of, rows_of
from easyedit_lifelong.methods.grace.codebook.removal import remove_edits
from tests.support.thoroughness import examples

Point = tuple[int, int]
Edit = tuple[Point, int, list[Point]]
"""The query, the label, and the queries of the other names of the edit's subject."""

points = st.tuples(st.integers(-10, 10), st.integers(-10, 10))
streams = st.lists(st.tuples(points, st.integers(0, 2), st.lists(points, max_size=2)), min_size=1, max_size=30)
codebook_options = st.tuples(st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]))


def empty_codebook(options: tuple[str, str]) -> Codebook:
    return Codebook(2, 1, eps=1.0 if options[0] == "euc" else 0.05, dist_fn=options[0], eps_expand=options[1])


def insert(codebook: Codebook, edit: Edit, number: int) -> tuple[Decision, int, Change]:
    query, label, other_names = edit
    value = torch.tensor([float(number)])
    decision, index, change = codebook.insert(vector(query), (label,), value)
    keys = [(vector(other), value) for other in other_names]
    return decision, index, codebook.add_other_names(change, (label,), keys)


def vector(point: Point) -> torch.Tensor:
    x, y = point
    return torch.tensor([x / 4 + 0.01, y / 4])


def built(edits: list[tuple[int, Edit]], options: tuple[str, str]) -> tuple[Codebook, list[Change]]:
    codebook = empty_codebook(options)
    return codebook, [insert(codebook, edit, number)[2] for number, edit in edits]


def equal(codebook: Codebook, expected: Codebook) -> bool:
    return codebook.labels == expected.labels and all(
        torch.equal(getattr(codebook, name), getattr(expected, name)) for name in ("keys", "values", "radii")
    )


def equal_changes(changes: list[Change], expected: list[Change]) -> bool:
    def fields(change: Change) -> tuple[object, ...]:
        query = None if change.query is None else change.query.tolist()
        others = [fields(other) for other in change.other_names]
        return change.length, change.index, change.label, [t.tolist() for t in change.row], query, others

    return [fields(change) for change in changes] == [fields(change) for change in expected]


@examples(150)
@given(streams, codebook_options, st.data())
def test_removal_leaves_the_codebook_that_the_other_edits_build(
    stream: list[Edit], options: tuple[str, str], data: st.DataObject
) -> None:
    edits = list(enumerate(stream))
    codebook, changes = built(edits, options)
    removed = data.draw(st.sets(st.sampled_from(range(len(stream))), max_size=5))
    remove_edits(codebook, changes, removed, range(len(stream)))
    expected, expected_changes = built([edit for edit in edits if edit[0] not in removed], options)
    assert equal(codebook, expected)
    assert equal_changes(changes, expected_changes)
    for change in reversed(changes):  # the remaining changes can be undone, too
        codebook.undo(change)
    assert len(codebook) == 0


@examples(50)
@given(streams, codebook_options)
def test_the_edit_history_reports_the_keys_and_decisions_that_were_made(
    stream: list[Edit], options: tuple[str, str]
) -> None:
    codebook = empty_codebook(options)
    inserted = [insert(codebook, edit, number) for number, edit in enumerate(stream)]
    changes = [change for _, _, change in inserted]
    rows = rows_of(codebook, changes)
    assert keys_of(codebook, changes) == [index for _, index, _ in inserted]
    reported = [decision_of(change, changed_rows.own) for change, changed_rows in zip(changes, rows, strict=True)]
    assert reported == [decision for decision, _, _ in inserted]
    for keys, (_, label, other_names), (own, others) in zip(all_keys_of(codebook, changes), stream, rows, strict=True):
        assert len(keys) == 1 + len(others) == 1 + len(other_names)
        assert [rows_of_key[-1].key_index for rows_of_key in (own, *others)] == keys
        assert all(rows_of_key[-1].label == (label,) for rows_of_key in (own, *others))
    begin = len(stream) // 2
    assert str(rows_of(codebook, changes, begin)) == str(rows[begin:])


@examples(100)
@given(streams, st.data())
def test_a_failed_removal_leaves_the_codebook_unchanged(stream: list[Edit], data: st.DataObject) -> None:
    options = ("euc", "coverage")
    codebook, changes = built(list(enumerate(stream)), options)
    removed = data.draw(st.sampled_from(range(len(stream))))
    codebook.hits.update({0: 3, len(codebook) - 1: 2})
    hits, calls_before_failure = Counter(codebook.hits), data.draw(st.integers(0, len(stream)))
    insert_again = removal.insert_again

    def fail_after_some_calls(*args: object) -> object:
        nonlocal calls_before_failure
        if calls_before_failure == 0:
            raise MemoryError
        calls_before_failure -= 1
        return insert_again(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(removal, "insert_again", fail_after_some_calls)
        try:
            remove_edits(codebook, changes, {removed}, range(len(stream)))
        except MemoryError:
            assert equal(codebook, built(list(enumerate(stream)), options)[0])
            assert codebook.hits == hits


def test_removing_an_edit_restores_the_radius_that_it_split() -> None:
    codebook, changes = built([(0, ((0, 0), 1, [])), (1, ((4, 0), 2, [])), (2, ((40, 0), 1, []))], ("euc", "coverage"))
    codebook.hits.update({0: 1, 1: 7, 2: 3})
    assert codebook.radii[0] < 0.51
    remove_edits(codebook, changes, {1}, "abc")
    (first, second) = changes
    assert codebook.radii.tolist() == [1.0, 1.0]
    assert codebook.hits == {0: 1, 1: 3}, "hits moved to another edit's key"
    assert (first.length, second.length) == (0, 1)


def test_a_key_of_another_name_gets_its_hits_back() -> None:
    edits: list[tuple[int, Edit]] = [(0, ((0, 0), 1, [(40, 0)])), (1, ((-40, 0), 2, [(0, 40), (0, -40)]))]
    codebook, changes = built(edits, ("euc", "coverage"))
    codebook.hits.update({0: 1, 1: 2, 2: 3, 3: 4, 4: 5})
    remove_edits(codebook, changes, {0}, "ab")
    (kept,) = changes
    assert codebook.hits == {0: 3, 1: 4, 2: 5}
    assert equal(codebook, built(edits[1:], ("euc", "coverage"))[0])
    codebook.undo(kept)
    assert len(codebook) == 0


def test_other_names_that_cant_be_inserted_leave_no_trace() -> None:
    codebook, (change,) = built([(0, ((0, 0), 1, []))], ("euc", "coverage"))
    value = torch.tensor([1.0])
    with pytest.raises(RuntimeError):
        codebook.add_other_names(change, (1,), [(vector((30, 0)), value), (torch.ones(3), value)])
    assert equal(codebook, built([(0, ((0, 0), 1, []))], ("euc", "coverage"))[0])


def test_removal_is_refused_if_a_later_edits_query_is_not_known() -> None:
    stream: list[Edit] = [((0, 0), 1, []), ((0, 1), 1, []), ((30, 0), 1, [])]  # the second is covered by the first
    codebook, changes = built(list(enumerate(stream)), ("euc", "coverage"))
    changes[1] = Change(changes[1].length, changes[1].index, changes[1].label, changes[1].row)
    with pytest.raises(EditError, match=r"case 'b' came later, and was saved without its query"):
        remove_edits(codebook, changes, {0}, "abc")
    assert equal(codebook, built(list(enumerate(stream)), ("euc", "coverage"))[0])
    remove_edits(codebook, changes, {2}, "abc")
    assert len(changes) == 2, "removal needed the query of an earlier edit"
    remove_edits(codebook, changes, {0, 1}, "abc")
    assert not changes
