"""A codebook without some of its edits is the one that was built without them, bit by bit."""

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
from easyedit_lifelong.methods.grace.codebook.edit_history import decision_of, keys_of, rows_of
from easyedit_lifelong.methods.grace.codebook.removal import remove_edits
from tests.support.thoroughness import examples

Edit = tuple[int, int, int]
streams = st.lists(st.tuples(st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 2)), min_size=1, max_size=30)
books = st.tuples(st.sampled_from(["euc", "cos"]), st.sampled_from(["coverage", "moving_average"]))


def empty(options: tuple[str, str]) -> Codebook:
    return Codebook(2, 1, eps=1.0 if options[0] == "euc" else 0.05, dist_fn=options[0], eps_expand=options[1])


def enter(codebook: Codebook, edit: Edit, number: int) -> tuple[Decision, int, Change]:
    x, y, label = edit
    return codebook.enter(torch.tensor([x / 4 + 0.01, y / 4]), (label,), torch.tensor([float(number)]))


def built(edits: list[tuple[int, Edit]], options: tuple[str, str]) -> tuple[Codebook, list[Change]]:
    codebook = empty(options)
    return codebook, [enter(codebook, edit, number)[2] for number, edit in edits]


def same(one: Codebook, other: Codebook) -> bool:
    return one.labels == other.labels and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("keys", "values", "radii")
    )


def same_changes(one: list[Change], other: list[Change]) -> bool:
    def told(change: Change) -> tuple[object, ...]:
        query = None if change.query is None else change.query.tolist()
        return change.length, change.index, change.label, [t.tolist() for t in change.row], query

    return [told(change) for change in one] == [told(change) for change in other]


@examples(150)
@given(streams, books, st.data())
def test_without_some_edits_is_built_without_them(
    stream: list[Edit], options: tuple[str, str], data: st.DataObject
) -> None:
    edits = list(enumerate(stream))
    codebook, changes = built(edits, options)
    out = data.draw(st.sets(st.sampled_from(range(len(stream))), max_size=5))
    left = remove_edits(codebook, changes, out, range(len(stream)))
    expected, expected_changes = built([edit for edit in edits if edit[0] not in out], options)
    assert same(codebook, expected)
    assert same_changes(left, expected_changes)
    for change in reversed(left):  # and can be walked back to nothing
        codebook.undo(change)
    assert len(codebook) == 0


@examples(50)
@given(streams, books)
def test_what_is_told_of_a_history_is_what_was_done(stream: list[Edit], options: tuple[str, str]) -> None:
    codebook = empty(options)
    done = [enter(codebook, edit, number) for number, edit in enumerate(stream)]
    changes = [change for _, _, change in done]
    rows = rows_of(codebook, changes)
    assert keys_of(codebook, changes) == [index for _, index, _ in done]
    told = [decision_of(change, changed) for change, changed in zip(changes, rows, strict=True)]
    assert told == [decision for decision, _, _ in done]
    begin = len(stream) // 2
    assert str(rows_of(codebook, changes, begin)) == str(rows[begin:])


@examples(100)
@given(streams, st.data())
def test_a_failure_on_the_way_leaves_the_codebook_as_it_was(stream: list[Edit], data: st.DataObject) -> None:
    options = ("euc", "coverage")
    codebook, changes = built(list(enumerate(stream)), options)
    out = data.draw(st.sampled_from(range(len(stream))))
    codebook.hits.update({0: 3, len(codebook) - 1: 2})
    hits, left = Counter(codebook.hits), data.draw(st.integers(0, len(stream)))
    really = removal.insert_again

    def failing(*args: object) -> object:
        nonlocal left
        if left == 0:
            raise MemoryError
        left -= 1
        return really(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(removal, "insert_again", failing)
        try:
            remove_edits(codebook, changes, {out}, range(len(stream)))
        except MemoryError:
            assert same(codebook, built(list(enumerate(stream)), options)[0])
            assert codebook.hits == hits


def test_the_radius_that_a_split_halved_comes_back() -> None:
    codebook, changes = built([(0, (0, 0, 1)), (1, (4, 0, 2)), (2, (40, 0, 1))], ("euc", "coverage"))
    codebook.hits.update({0: 1, 1: 7, 2: 3})
    assert codebook.radii[0] < 0.51
    (first, second) = remove_edits(codebook, changes, {1}, "abc")
    assert codebook.radii.tolist() == [1.0, 1.0]
    assert codebook.hits == {0: 1, 1: 3}, "hits stay with the edits that added their keys"
    assert (first.length, second.length) == (0, 1)


def test_a_later_edit_that_is_not_known_in_full_is_an_error_and_nothing_happens() -> None:
    stream = [(0, 0, 1), (0, 1, 1), (30, 0, 1)]  # the second is covered by the first
    codebook, changes = built(list(enumerate(stream)), ("euc", "coverage"))
    changes[1] = Change(changes[1].length, changes[1].index, changes[1].label, changes[1].row)
    with pytest.raises(EditError, match=r"case 'b' came later, .* saved before edits kept their queries"):
        remove_edits(codebook, changes, {0}, "abc")
    assert same(codebook, built(list(enumerate(stream)), ("euc", "coverage"))[0])
    assert len(remove_edits(codebook, changes, {2}, "abc")) == 2, "what came before it needn't be known"
    assert len(remove_edits(codebook, changes[:2], {0, 1}, "abc")) == 0
