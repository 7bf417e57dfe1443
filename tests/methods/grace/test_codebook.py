"""The codebook on its own: decisions, lookups, undo, growth, moving, saving."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Decision, as_label
from tests.support.thoroughness import examples

YES, NO = (1,), (2,)


def book(eps: float = 1.0, **options: str) -> Codebook:
    return Codebook(2, 3, eps=eps, **options)


def at(x: float, y: float = 0.0) -> torch.Tensor:
    return torch.tensor([x, y])


def value(x: float = 1.0) -> torch.Tensor:
    return torch.full((3,), x)


def test_far_queries_are_added_with_the_initial_radius():
    codebook = book()
    assert codebook.enter(at(0), YES, value(1))[0] is Decision.ADD
    assert codebook.enter(at(2.001), YES, value(2))[0] is Decision.ADD
    assert codebook.radii.tolist() == [1.0, 1.0]


def test_touching_query_of_the_same_label_expands_to_it():
    codebook = book()
    codebook.enter(at(0), YES, value(1))
    decision, index, _ = codebook.enter(at(1.5), YES, value(2))
    assert (decision, index, len(codebook)) == (Decision.EXPAND, 0, 1)
    assert codebook.radii.tolist() == [1.5]
    assert codebook.values[0].tolist() == [2, 2, 2]


def test_query_inside_a_radius_of_the_same_label_changes_no_key():
    codebook = book()
    codebook.enter(at(0), YES, value(1))
    assert codebook.enter(at(0.5), YES, value(2))[0] is Decision.COVERED
    assert codebook.radii.tolist() == [1.0]


def test_moving_average_moves_the_key_half_way():
    codebook = book(eps_expand="moving_average")
    codebook.enter(at(0), YES, value())
    codebook.enter(at(1.5), YES, value())
    assert codebook.keys.tolist() == [[0.75, 0.0]]
    assert codebook.radii.tolist() == [1.5]


def test_touching_query_of_another_label_splits_the_distance():
    codebook = book()
    codebook.enter(at(0), YES, value(1))
    decision, index, _ = codebook.enter(at(1.2), NO, value(2))
    assert (decision, index) == (Decision.SPLIT, 1)
    torch.testing.assert_close(codebook.radii, torch.tensor([0.6 - 1e-5, 0.6]))
    assert codebook.lookup(torch.stack([at(0.5), at(0.7)])).tolist() == [0, 1]


def test_the_same_prompt_edited_again_takes_the_first_edits_place():
    codebook = book()
    codebook.enter(at(3), YES, value(1))
    decision, index, change = codebook.enter(at(3), NO, value(2))
    assert (decision, index, len(codebook)) == (Decision.SUPERSEDE, 0, 1)
    assert codebook.radii.tolist() == [1.0]
    assert codebook.labels == [NO]
    codebook.undo(change)
    assert codebook.labels == [YES]
    assert codebook.values[0].tolist() == [1, 1, 1]


def test_only_the_nearest_key_answers():
    codebook = book(eps=0.1)
    codebook.enter(at(0), YES, value())
    codebook.enter(at(0.15), YES, value())  # grows the first key to 0.15
    codebook.enter(at(1), NO, value())
    # 0.6 is nearer to the key at 1, whose radius doesn't reach it.
    assert codebook.lookup(torch.stack([at(0.15), at(0.6), at(1.1)])).tolist() == [0, -1, 1]


def test_a_radius_holds_the_query_it_was_grown_to_in_spite_of_rounding():
    codebook = Codebook(64, 3, eps=5.0)
    generator = torch.Generator().manual_seed(0)
    first, second = 10 * torch.randn(2, 64, generator=generator)
    second = first + 7 * (second - first) / (second - first).norm()
    codebook.enter(first, YES, value())
    assert codebook.enter(second, YES, value())[0] is Decision.EXPAND
    rounded = second + 2e-4 * (second - first) / (second - first).norm()
    assert float((rounded - first).norm()) > float(codebook.radii[0])
    assert codebook.lookup(rounded.unsqueeze(0)).tolist() == [0]


def test_cosine_distance_ignores_length():
    codebook = book(eps=0.05, dist_fn="cos")
    codebook.enter(at(1, 0), YES, value())
    assert codebook.lookup(torch.stack([at(50, 0), at(1, 0.1), at(0, 1)])).tolist() == [0, 0, -1]


def test_distances_keep_their_digits_at_the_key_itself():
    key = 100 + torch.rand(1, 512, generator=torch.Generator().manual_seed(1))
    codebook = Codebook(512, 3, eps=1.0)
    for i in range(40):  # cdist would switch to the cancelling formula from 25 rows on
        codebook.enter(key[0] + 10 * i, YES, value())
    assert float(codebook.distances(key)[0, 0]) == 0.0


def test_an_empty_codebook_defers_everything():
    assert book().lookup(torch.zeros(3, 2)).tolist() == [-1, -1, -1]


def test_labels_are_the_tokens_in_their_order():
    assert as_label([3, 5]) != as_label([5, 3])  # their means are equal


operations = st.lists(st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.integers(0, 2)), min_size=1, max_size=40)


@examples(60)
@given(operations, st.sampled_from(["coverage", "moving_average"]))
def test_undoing_in_reverse_passes_through_every_earlier_state(edits, expand):
    codebook, states, changes = book(eps_expand=expand), [], []
    for x, y, label in edits:
        states.append((codebook.keys.clone(), codebook.values.clone(), codebook.radii.clone(), list(codebook.labels)))
        changes.append(codebook.enter(at(x / 4, y / 4), (label,), value(len(states)))[2])
    for (keys, values, radii, labels), change in zip(reversed(states), reversed(changes), strict=True):
        codebook.undo(change)
        assert torch.equal(codebook.keys, keys)
        assert torch.equal(codebook.values, values)
        assert torch.equal(codebook.radii, radii)
        assert codebook.labels == labels


@examples(60)
@given(operations)
def test_the_latest_edit_is_always_answered_with_its_own_value(edits):
    codebook = book()
    for n, (x, y, label) in enumerate(edits):
        query = at(x / 4, y / 4)
        codebook.enter(query, (label,), value(float(n)))
        index = int(codebook.lookup(query.unsqueeze(0)))
        assert index >= 0
        assert codebook.values[index].tolist() == [n, n, n]


@examples(60)
@given(operations)
def test_radii_are_never_negative_and_growth_loses_nothing(edits):
    codebook = book()
    for x, y, label in edits:
        codebook.enter(at(x / 4, y / 4), (label,), value())
    assert (codebook.radii >= 0).all()
    assert len(codebook.keys) == len(codebook.values) == len(codebook.labels) == len(codebook)


def test_state_dict_round_trip_into_an_empty_codebook():
    codebook = book()
    for x in (0, 5, 10):
        codebook.enter(at(x), YES, value(x))
    loaded = book()
    loaded.load_state_dict(codebook.state_dict())
    assert loaded.lookup(at(5).unsqueeze(0)).tolist() == [1]
    loaded.enter(at(20), NO, value())
    assert len(loaded) == 4
    assert len(codebook) == 3


def test_loading_an_incomplete_state_is_an_error():
    state = book().state_dict()
    del state["radii"]
    with pytest.raises(RuntimeError, match="radii"):
        book().load_state_dict(state)


def test_moving_to_half_precision_keeps_keys_and_values_in_float32():
    codebook = book()
    codebook.enter(at(0.1), YES, value(0.1))
    before = codebook.keys.clone(), codebook.values.clone()
    codebook.to(torch.bfloat16)
    assert codebook.keys.dtype == torch.float32
    assert torch.equal(codebook.keys, before[0])
    assert torch.equal(codebook.values, before[1])


def test_a_copy_is_independent():
    codebook = book()
    codebook.enter(at(0), YES, value())
    other = copy.deepcopy(codebook)
    other.enter(at(9), NO, value())
    assert (len(codebook), len(other)) == (1, 2)
