"""The codebook: its decisions on new edits, lookups, undo and redo, its state, and a change of dtype."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.methods.grace.codebook import codebook as codebook_module
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Decision, Match, as_label
from tests.support.thoroughness import examples

LABEL, OTHER_LABEL = (1,), (2,)


def new_codebook(eps: float = 1.0, **options: str) -> Codebook:
    return Codebook(2, 3, eps=eps, **options)


def point(x: float, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([x, y])


def value(x: float = 1.0) -> torch.Tensor:
    return torch.full((3,), x)


def test_a_query_far_from_all_keys_is_added_with_the_initial_radius() -> None:
    codebook = new_codebook()
    assert codebook.insert(point(0), LABEL, value(1))[0] is Decision.ADD
    assert codebook.insert(point(2.001), LABEL, value(2))[0] is Decision.ADD
    assert codebook.radii.tolist() == [1.0, 1.0]


def test_a_touching_query_with_the_same_label_expands_the_radius_to_it() -> None:
    codebook = new_codebook()
    codebook.insert(point(0), LABEL, value(1))
    decision, index, _ = codebook.insert(point(1.5), LABEL, value(2))
    assert (decision, index, len(codebook)) == (Decision.EXPAND, 0, 1)
    assert codebook.radii.tolist() == [1.5]
    assert codebook.values[0].tolist() == [2, 2, 2]


def test_a_query_inside_a_radius_with_the_same_label_is_covered() -> None:
    codebook = new_codebook()
    codebook.insert(point(0), LABEL, value(1))
    assert codebook.insert(point(0.5), LABEL, value(2))[0] is Decision.COVERED
    assert codebook.radii.tolist() == [1.0]


def test_moving_average_moves_the_key_half_way_to_the_query() -> None:
    codebook = new_codebook(eps_expand="moving_average")
    codebook.insert(point(0), LABEL, value())
    codebook.insert(point(1.5), LABEL, value())
    assert codebook.keys.tolist() == [[0.75, 0.0]]
    assert codebook.radii.tolist() == [1.5]


def test_a_touching_query_with_another_label_splits_the_distance() -> None:
    codebook = new_codebook()
    codebook.insert(point(0), LABEL, value(1))
    decision, index, _ = codebook.insert(point(1.2), OTHER_LABEL, value(2))
    assert (decision, index) == (Decision.SPLIT, 1)
    torch.testing.assert_close(codebook.radii, torch.tensor([0.6 - 1e-5, 0.6]))
    assert codebook.lookup(torch.stack([point(0.5), point(0.7)])).tolist() == [0, 1]


@pytest.mark.parametrize(("label", "allocates"), [(OTHER_LABEL, "append"), (LABEL, "write_key")])
def test_an_edit_for_which_memory_runs_out_leaves_no_trace(label: tuple[int], allocates: str) -> None:
    codebook = new_codebook(eps_expand="moving_average")
    codebook.insert(point(0), LABEL, value(1))
    before = copy.deepcopy(codebook.row(0))
    with (
        mock.patch.object(codebook._arrays, allocates, side_effect=torch.OutOfMemoryError("full")),
        pytest.raises(torch.OutOfMemoryError),
    ):
        codebook.insert(point(1.5), label, value(2))
    after = codebook.row(0)
    assert (len(codebook), after.label, after.tensors.radius) == (1, before.label, before.tensors.radius)
    assert torch.equal(after.tensors.value, before.tensors.value)


def test_an_equal_query_with_another_label_supersedes_the_key() -> None:
    codebook = new_codebook()
    codebook.insert(point(3), LABEL, value(1))
    decision, index, change = codebook.insert(point(3), OTHER_LABEL, value(2))
    assert (decision, index, len(codebook)) == (Decision.SUPERSEDE, 0, 1)
    assert codebook.radii.tolist() == [1.0]
    assert codebook.labels == [OTHER_LABEL]
    codebook.undo(change)
    assert codebook.labels == [LABEL]
    assert codebook.values[0].tolist() == [1, 1, 1]


def test_a_lookup_returns_the_nearest_key_or_none() -> None:
    codebook = new_codebook(eps=0.1)
    codebook.insert(point(0), LABEL, value())
    codebook.insert(point(0.15), LABEL, value())  # expands the first radius to 0.15
    codebook.insert(point(1), OTHER_LABEL, value())
    # 0.6 is nearer to the key at 1, whose radius doesn't reach it.
    assert codebook.lookup(torch.stack([point(0.15), point(0.6), point(1.1)])).tolist() == [0, -1, 1]


def test_an_expanded_radius_contains_its_query_despite_rounding() -> None:
    codebook = Codebook(64, 3, eps=5.0)
    generator = torch.Generator().manual_seed(0)
    first, second = 10 * torch.randn(2, 64, generator=generator)
    second = first + 7 * (second - first) / (second - first).norm()
    codebook.insert(first, LABEL, value())
    assert codebook.insert(second, LABEL, value())[0] is Decision.EXPAND
    rounded = second + 2e-4 * (second - first) / (second - first).norm()
    assert float((rounded - first).norm()) > float(codebook.radii[0])
    assert codebook.lookup(rounded.unsqueeze(0)).tolist() == [0]


def test_cosine_distance_ignores_the_length_of_vectors() -> None:
    codebook = new_codebook(eps=0.05, dist_fn="cos")
    codebook.insert(point(1, 0), LABEL, value())
    assert codebook.lookup(torch.stack([point(50, 0), point(1, 0.1), point(0, 1)])).tolist() == [0, 0, -1]


def test_the_distance_of_a_key_to_itself_is_exactly_zero() -> None:
    key = 100 + torch.rand(1, 512, generator=torch.Generator().manual_seed(1))
    codebook = Codebook(512, 3, eps=1.0)
    for i in range(40):  # from 25 rows on, cdist would use a formula that loses digits
        codebook.insert(key[0] + 10 * i, LABEL, value())
    assert float(codebook.distances(key)[0, 0]) == 0.0


def test_an_empty_codebook_matches_no_query() -> None:
    assert new_codebook().lookup(torch.zeros(3, 2)).tolist() == [-1, -1, -1]


def test_labels_distinguish_the_order_of_tokens() -> None:
    assert as_label([3, 5]) != as_label([5, 3])  # their means are equal


operations = st.lists(st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.integers(0, 2)), min_size=1, max_size=40)


@examples(60)
@given(operations, st.sampled_from(["coverage", "moving_average"]))
def test_undoing_changes_in_reverse_restores_every_earlier_state(
    edits: list[tuple[int, int, int]], expand: str
) -> None:
    codebook, states, changes = new_codebook(eps_expand=expand), [], []
    for x, y, label in edits:
        states.append((codebook.keys.clone(), codebook.values.clone(), codebook.radii.clone(), list(codebook.labels)))
        changes.append(codebook.insert(point(x / 4, y / 4), (label,), value(len(states)))[2])
    for (keys, values, radii, labels), change in zip(reversed(states), reversed(changes), strict=True):
        codebook.undo(change)
        assert torch.equal(codebook.keys, keys)
        assert torch.equal(codebook.values, values)
        assert torch.equal(codebook.radii, radii)
        assert codebook.labels == labels


@examples(60)
@given(operations)
def test_the_latest_edits_query_matches_a_key_with_its_value(edits: list[tuple[int, int, int]]) -> None:
    codebook = new_codebook()
    for n, (x, y, label) in enumerate(edits):
        query = point(x / 4, y / 4)
        codebook.insert(query, (label,), value(float(n)))
        index = int(codebook.lookup(query.unsqueeze(0)))
        assert index >= 0
        assert codebook.values[index].tolist() == [n, n, n]


@examples(100)
@given(st.lists(st.tuples(st.integers(-8, 8), st.integers(-8, 8), st.integers(0, 2)), max_size=30))
def test_a_limited_search_for_the_rival_changes_no_decision(edits: list[tuple[int, int, int]]) -> None:
    codebook, limited = new_codebook(), new_codebook()
    for x, y, label in edits:
        arguments = point(x / 2, y / 2), (label,), value()
        decided, expected = limited_decision(limited, *arguments), codebook.decide(*arguments)
        assert decided[0] is expected[0]
        assert decided[1] == expected[1] or (decided[0] is Decision.ADD and decided[1].index == -1)
        assert codebook.insert(*arguments, expected)[:2] == limited.insert(*arguments, decided)[:2]
        assert codebook.radii.tolist() == limited.radii.tolist()


def limited_decision(codebook: Codebook, *arguments: Any) -> tuple[Decision, Match]:
    with mock.patch.object(codebook_module, "NEAREST_KEY_LIMIT", 0):
        return codebook.decide(*arguments)


@examples(60)
@given(operations)
def test_radii_are_never_negative_and_all_arrays_have_equal_length(edits: list[tuple[int, int, int]]) -> None:
    codebook = new_codebook()
    for x, y, label in edits:
        codebook.insert(point(x / 4, y / 4), (label,), value())
    assert (codebook.radii >= 0).all()
    assert len(codebook.keys) == len(codebook.values) == len(codebook.labels) == len(codebook)


def test_a_loaded_state_answers_and_takes_further_edits() -> None:
    codebook = new_codebook()
    for x in (0, 5, 10):
        codebook.insert(point(x), LABEL, value(x))
    loaded = new_codebook()
    loaded.load_state_dict(codebook.state_dict())
    assert loaded.lookup(point(5).unsqueeze(0)).tolist() == [1]
    loaded.insert(point(20), OTHER_LABEL, value())
    assert len(loaded) == 4
    assert len(codebook) == 3


def test_an_incomplete_state_is_refused_with_the_missing_name() -> None:
    state = new_codebook().state_dict()
    del state["radii"]
    with pytest.raises(RuntimeError, match="radii"):
        new_codebook().load_state_dict(state)


def test_conversion_to_half_precision_leaves_keys_and_values_in_float32() -> None:
    codebook = new_codebook()
    codebook.insert(point(0.1), LABEL, value(0.1))
    before = codebook.keys.clone(), codebook.values.clone()
    codebook.to(torch.bfloat16)
    assert codebook.keys.dtype == torch.float32
    assert torch.equal(codebook.keys, before[0])
    assert torch.equal(codebook.values, before[1])


def test_edits_of_a_copy_do_not_change_the_original() -> None:
    codebook = new_codebook()
    codebook.insert(point(0), LABEL, value())
    copied = copy.deepcopy(codebook)
    copied.insert(point(9), OTHER_LABEL, value())
    assert (len(codebook), len(copied)) == (1, 2)


def test_redo_repeats_what_undo_reverted_for_every_decision() -> None:
    codebook = new_codebook()
    steps = [(point(0), (1,)), (point(1.5), (1,)), (point(1), (2,)), (point(1), (3,)), (point(0), (1,))]
    decisions = set()
    for n, (query, label) in enumerate(steps):
        decision, index, change = codebook.insert(query, label, value(float(n)))
        decisions.add(decision)
        touched = sorted({index, *([] if change.index is None else [change.index])})
        touched_rows = [codebook.row(row) for row in touched]
        expected = [codebook.row(row) for row in range(len(codebook))]
        codebook.undo(change)
        redone = codebook.redo(touched_rows)
        assert (redone.length, redone.index, redone.label) == (change.length, change.index, change.label)
        actual = [codebook.row(row) for row in range(len(codebook))]
        for (_, label_before, tensors_before), (_, label_now, tensors_now) in zip(expected, actual, strict=True):
            assert label_now == label_before
            assert all(torch.equal(*pair) for pair in zip(tensors_now, tensors_before, strict=True))
    assert decisions == {Decision.ADD, Decision.EXPAND, Decision.SPLIT, Decision.SUPERSEDE, Decision.COVERED}
