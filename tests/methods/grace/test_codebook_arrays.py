"""Keys are kept in as few bytes as hold them to the last bit, whatever happens to them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import CodebookArrays
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.state_folders import load_state, save_state
from tests.support.thoroughness import examples
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

HALF = [torch.bfloat16, torch.float16]
WIDTH = 6

EDITS = [
    {"prompt": "the capital of France is", "target_new": "Rome"},
    {"prompt": "Hamlet is from", "target_new": "Peru"},
    {"prompt": "moon", "target_new": "cheese"},
]


def key(dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype).float()


def enter(codebook: Codebook, query: Tensor, label: int = 0) -> Change:
    return codebook.enter(query, (label,), torch.zeros(2))[2]


def book(**options: Any) -> Codebook:
    return Codebook(WIDTH, 2, **{"eps": 0.1, **options})


@pytest.mark.parametrize("dtype", HALF)
def test_keys_of_half_precision_take_half_the_bytes(dtype: torch.dtype) -> None:
    codebook, whole = book(), book()
    for n in range(200):
        enter(codebook, key(dtype, n), n)
        enter(whole, key(torch.float32, n), n)
    assert codebook.keys.dtype == dtype
    assert whole.keys.dtype == torch.float32
    assert torch.equal(codebook.keys.float(), torch.stack([key(dtype, n) for n in range(200)]))
    assert whole._arrays.nbytes - codebook._arrays.nbytes == 2 * codebook._arrays._tensors["keys"].numel()


@pytest.mark.parametrize("dtype", HALF)
def test_the_first_key_that_needs_more_widens_all(dtype: torch.dtype) -> None:
    codebook = book()
    keys = [*(key(dtype, n) for n in range(40)), key(torch.float32, 40), key(dtype, 41)]
    for n, query in enumerate(keys):
        enter(codebook, query, n)
    assert codebook.keys.dtype == torch.float32
    assert torch.equal(codebook.keys, torch.stack(keys))


@pytest.mark.parametrize("dtype", HALF)
def test_a_key_that_moves_between_two_numbers_is_not_rounded(dtype: torch.dtype) -> None:
    query = key(dtype)
    near = (query * (1 + 2 * torch.finfo(dtype).eps)).to(dtype).float()
    codebook = book(eps_expand="moving_average", eps=0.7 * float((near - query).norm()))
    first = enter(codebook, query)
    change = enter(codebook, near)
    middle = (query + near) / 2
    assert not torch.equal(middle.to(dtype).float(), middle)
    assert torch.equal(codebook.keys[0], middle)
    codebook.undo(change)
    assert torch.equal(codebook.keys[0].float(), query)
    codebook.undo(first)
    enter(codebook, query)
    assert codebook.keys.dtype == dtype, "an empty codebook begins anew"


@pytest.mark.parametrize("dtype", HALF)
def test_a_state_and_a_copy_hold_what_the_codebook_does(dtype: torch.dtype) -> None:
    codebook, loaded = book(), book()
    for n in range(20):
        enter(codebook, key(dtype, n), n)
    loaded.load_state_dict(codebook.state_dict())
    for other in (loaded, copy.deepcopy(codebook)):
        assert other.keys.dtype == dtype
        assert torch.equal(other.keys, codebook.keys)
        enter(other, key(torch.float32, 20), 20)
        assert torch.equal(other.keys[:20], codebook.keys.float())
    assert len(codebook) == 20


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 1e30])
def test_what_no_narrow_type_holds_is_kept_in_float32(odd: float) -> None:
    entries = CodebookArrays(2, 1)
    entries.append(torch.tensor([1.0, odd * 1.1]), torch.zeros(1), 0.5)
    entries.append(torch.tensor([1.0, 1 / 3]), torch.zeros(1), 0.5)
    torch.testing.assert_close(entries["keys"][0], torch.tensor([1.0, odd * 1.1]), rtol=0, atol=0, equal_nan=True)
    assert float(entries["keys"][1, 1]) == float(torch.tensor(1 / 3))


numbers = st.floats(-4, 4, width=16) | st.floats(-4, 4, width=32)
entered = st.tuples(numbers, numbers, st.integers(0, 1))


@examples(150)
@given(st.lists(st.one_of(entered, st.sampled_from(["undo", "reload"])), max_size=30), st.booleans())
def test_a_codebook_decides_and_holds_what_one_in_float32_does(
    steps: list[tuple[float, float, int] | str], average: bool
) -> None:
    expand = "moving_average" if average else "coverage"
    codebook, whole = (Codebook(2, 1, eps=0.5, eps_expand=expand) for _ in range(2))
    whole.load_state_dict({"keys": torch.full((1, 2), 1 / 3), "values": torch.zeros(1, 1), "radii": torch.zeros(1)})
    codebook.load_state_dict({"keys": torch.full((1, 2), 1e6), "values": torch.zeros(1, 1), "radii": torch.zeros(1)})
    whole.keys[0] = 1e6
    changes: list[tuple[Change, Change]] = []
    for step in steps:
        if isinstance(step, tuple):
            x, y, label = step
            done = [book.enter(torch.tensor([x, y]), (label,), torch.zeros(1)) for book in (codebook, whole)]
            assert done[0][:2] == done[1][:2]
            changes.append((done[0][2], done[1][2]))
        elif step == "undo" and changes:
            for book, change in zip((codebook, whole), changes.pop(), strict=True):
                book.undo(change)
        elif step == "reload":
            labels = list(codebook.labels)
            codebook.load_state_dict(codebook.state_dict())
            codebook.labels = labels
        assert whole.keys.dtype == torch.float32
        assert torch.equal(codebook.keys.float(), whole.keys)
        assert torch.equal(codebook.radii, whole.radii)


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_in_half_precision_has_a_codebook_of_half_the_keys_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], eps=0.5, n_iter=5)
    model, tokenizer = build_model("llama").to(dtype), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams)
    (editor,) = GraceEditor.all_of(model).values()
    assert editor.codebook is not None
    assert editor.codebook.keys.dtype == dtype
    save_state(model, tmp_path)
    fresh = build_model("llama").to(dtype)
    load_state(fresh, tokenizer, hparams, tmp_path)
    (loaded,) = GraceEditor.all_of(fresh).values()
    assert loaded.codebook is not None
    assert loaded.codebook.keys.dtype == dtype
    assert torch.equal(loaded.codebook.keys, editor.codebook.keys)
    assert torch.equal(loaded.codebook.values, editor.codebook.values)
