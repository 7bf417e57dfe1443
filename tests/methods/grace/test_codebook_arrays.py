"""Keys are stored in the narrowest dtype that holds all of them exactly."""

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

HALF_PRECISION = [torch.bfloat16, torch.float16]
WIDTH = 6

EDITS = [
    {"prompt": "the capital of France is", "target_new": "Rome"},
    {"prompt": "Hamlet is from", "target_new": "Peru"},
    {"prompt": "moon", "target_new": "cheese"},
]


def key(dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype).float()


def insert(codebook: Codebook, query: Tensor, label: int = 0) -> Change:
    return codebook.insert(query, (label,), torch.zeros(2))[2]


def new_codebook(**options: Any) -> Codebook:
    return Codebook(WIDTH, 2, **{"eps": 0.1, **options})


@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_half_precision_keys_take_half_the_memory(dtype: torch.dtype) -> None:
    codebook, float32_codebook = new_codebook(), new_codebook()
    for n in range(200):
        insert(codebook, key(dtype, n), n)
        insert(float32_codebook, key(torch.float32, n), n)
    assert codebook.keys.dtype == dtype
    assert float32_codebook.keys.dtype == torch.float32
    assert torch.equal(codebook.keys.float(), torch.stack([key(dtype, n) for n in range(200)]))
    assert float32_codebook._arrays.nbytes - codebook._arrays.nbytes == 2 * codebook._arrays._tensors["keys"].numel()


@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_a_float32_key_converts_all_keys_to_float32_exactly(dtype: torch.dtype) -> None:
    codebook = new_codebook()
    keys = [*(key(dtype, n) for n in range(40)), key(torch.float32, 40), key(dtype, 41)]
    for n, query in enumerate(keys):
        insert(codebook, query, n)
    assert codebook.keys.dtype == torch.float32
    assert torch.equal(codebook.keys, torch.stack(keys))


@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_a_moved_key_between_two_half_precision_numbers_is_not_rounded(dtype: torch.dtype) -> None:
    query = key(dtype)
    next_query = (query * (1 + 2 * torch.finfo(dtype).eps)).to(dtype).float()
    codebook = new_codebook(eps_expand="moving_average", eps=0.7 * float((next_query - query).norm()))
    first = insert(codebook, query)
    change = insert(codebook, next_query)
    mean = (query + next_query) / 2
    assert not torch.equal(mean.to(dtype).float(), mean)
    assert torch.equal(codebook.keys[0], mean)
    codebook.undo(change)
    assert torch.equal(codebook.keys[0].float(), query)
    codebook.undo(first)
    insert(codebook, query)
    assert codebook.keys.dtype == dtype, "an empty codebook kept the wider dtype"


@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_a_loaded_state_and_a_copy_keep_the_dtype_and_the_keys(dtype: torch.dtype) -> None:
    codebook, loaded = new_codebook(), new_codebook()
    for n in range(20):
        insert(codebook, key(dtype, n), n)
    loaded.load_state_dict(codebook.state_dict())
    for restored in (loaded, copy.deepcopy(codebook)):
        assert restored.keys.dtype == dtype
        assert torch.equal(restored.keys, codebook.keys)
        insert(restored, key(torch.float32, 20), 20)
        assert torch.equal(restored.keys[:20], codebook.keys.float())
    assert len(codebook) == 20


@pytest.mark.parametrize("unusual", [float("nan"), float("inf"), 1e30])
def test_nan_infinity_and_large_numbers_are_stored_exactly(unusual: float) -> None:
    arrays = CodebookArrays(2, 1)
    arrays.append(torch.tensor([1.0, unusual * 1.1]), torch.zeros(1), 0.5)
    arrays.append(torch.tensor([1.0, 1 / 3]), torch.zeros(1), 0.5)
    torch.testing.assert_close(arrays["keys"][0], torch.tensor([1.0, unusual * 1.1]), rtol=0, atol=0, equal_nan=True)
    assert float(arrays["keys"][1, 1]) == float(torch.tensor(1 / 3))


drawn_numbers = st.floats(-4, 4, width=16) | st.floats(-4, 4, width=32)
drawn_edits = st.tuples(drawn_numbers, drawn_numbers, st.integers(0, 1))


@examples(150)
@given(st.lists(st.one_of(drawn_edits, st.sampled_from(["undo", "reload"])), max_size=30), st.booleans())
def test_decisions_keys_and_radii_equal_those_of_a_float32_codebook(
    steps: list[tuple[float, float, int] | str], moving_average: bool
) -> None:
    expand = "moving_average" if moving_average else "coverage"
    codebook, float32_codebook = (Codebook(2, 1, eps=0.5, eps_expand=expand) for _ in range(2))
    float32_codebook.load_state_dict(
        {"keys": torch.full((1, 2), 1 / 3), "values": torch.zeros(1, 1), "radii": torch.zeros(1)}
    )
    codebook.load_state_dict({"keys": torch.full((1, 2), 1e6), "values": torch.zeros(1, 1), "radii": torch.zeros(1)})
    float32_codebook.keys[0] = 1e6
    changes: list[tuple[Change, Change]] = []
    for step in steps:
        if isinstance(step, tuple):
            x, y, label = step
            inserted = [
                either.insert(torch.tensor([x, y]), (label,), torch.zeros(1)) for either in (codebook, float32_codebook)
            ]
            assert inserted[0][:2] == inserted[1][:2]
            changes.append((inserted[0][2], inserted[1][2]))
        elif step == "undo" and changes:
            for either, change in zip((codebook, float32_codebook), changes.pop(), strict=True):
                either.undo(change)
        elif step == "reload":
            labels = list(codebook.labels)
            codebook.load_state_dict(codebook.state_dict())
            codebook.labels = labels
        assert float32_codebook.keys.dtype == torch.float32
        assert torch.equal(codebook.keys.float(), float32_codebook.keys)
        assert torch.equal(codebook.radii, float32_codebook.radii)


@pytest.mark.parametrize("dtype", HALF_PRECISION)
def test_keys_of_a_half_precision_model_have_its_dtype_also_after_loading(dtype: torch.dtype, tmp_path: Path) -> None:
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], eps=0.5, n_iter=5)
    model, tokenizer = build_model("llama").to(dtype), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams)
    (editor,) = GraceEditor.all_of(model).values()
    assert editor.codebook is not None
    assert editor.codebook.keys.dtype == dtype
    save_state(model, tmp_path)
    unedited = build_model("llama").to(dtype)
    load_state(unedited, tokenizer, hparams, tmp_path)
    (loaded,) = GraceEditor.all_of(unedited).values()
    assert loaded.codebook is not None
    assert loaded.codebook.keys.dtype == dtype
    assert torch.equal(loaded.codebook.keys, editor.codebook.keys)
    assert torch.equal(loaded.codebook.values, editor.codebook.values)
