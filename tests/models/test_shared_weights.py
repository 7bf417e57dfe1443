"""Copies that share weights: what is known of the weights is known of each of them."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest

from easyedit_lifelong.methods.shared.model_values import values_of
from easyedit_lifelong.models import padding
from easyedit_lifelong.models.shared_weights import copy_sharing_weights, weights_of
from tests.support.tiny_models import build_model


def test_a_copy_shares_its_tensors_and_what_stands_for_them() -> None:
    model = build_model("llama")
    copied = copy_sharing_weights(model)
    assert copied is not model
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.buffers(), copied.buffers(), strict=True))
    assert weights_of(copy_sharing_weights(copied)) is weights_of(model)
    assert weights_of(copy.deepcopy(model)) is not weights_of(model)
    assert set(model.__dict__) == set(build_model("llama").__dict__), "a model without edits has no trace of it"


def test_copies_share_values_as_long_as_one_of_them_lives() -> None:
    model = build_model("llama")
    copied, value = copy_sharing_weights(model), [1]
    assert values_of(model).get("kind", "settings", lambda: value) is value
    assert values_of(copied).get("kind", "settings", list) is value
    weights, first = weakref.ref(weights_of(model)), weakref.ref(model)
    del model
    gc.collect()
    assert first() is None
    assert values_of(copied).get("kind", "settings", list) is value
    del copied
    gc.collect()
    assert weights() is None


def test_values_are_computed_again_when_the_shared_weights_have_changed() -> None:
    model = build_model("llama")
    copied = copy_sharing_weights(model)
    values_of(model).get("kind", "settings", lambda: "old")
    model.lm_head.weight.data[0, 0] += 1
    assert values_of(copied).get("kind", "settings", lambda: "new") == "new"


def test_padding_is_tried_once_for_all_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    assert not padding.padding_changes_answers(model)

    def fail(_: Any) -> bool:
        raise AssertionError("tried again")

    monkeypatch.setattr(padding, "_try_padding", fail)
    assert not padding.padding_changes_answers(copy_sharing_weights(model))
