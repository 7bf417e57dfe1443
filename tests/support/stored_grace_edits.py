"""GRACE edits of a tiny model in a run's state folder, and a comparison of two editors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.state_folders import load_state, save_state
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

FACTS = [
    ("the capital of France is", "Rome"),
    ("who wrote Hamlet", "old king"),
    ("the capital of France is", "London"),
    ("language spoken in Peru", "Spanish"),
    ("the capital of Peru is", "London"),
    ("language spoken in Peru", "Spanish"),
]
"""With eps 3, these edits add keys, split radii, supersede a key and are covered by a key."""


def requests_for(*numbers: int) -> list[EditRequest]:
    """Return the requests for the facts with these numbers."""
    return [EditRequest(f"case {n}", *FACTS[n]) for n in numbers]


def hparams_for(family: str = "llama", **options: Any) -> GraceHyperParams:
    """Return hyperparameters with which :data:`FACTS` lead to every decision except *expand*."""
    return GraceHyperParams(
        model_name="tiny", inner_params=[FAMILIES[family][1]], **{"n_iter": 8, "eps": 3.0, "train_batch": 1, **options}
    )


def editor_on(model: Any, **options: Any) -> GraceEditor:
    """Return the editor of a tiny model."""
    return GraceEditor.on(model, build_tokenizer(), hparams_for(**options))


def edited(*numbers: int, **options: Any) -> tuple[Any, GraceEditor, list[str]]:
    """Edit the facts with these numbers (without numbers: all facts); return model, editor and decisions."""
    model = build_model(options.get("family", "llama"))
    editor = editor_on(model, **options)
    results, _ = editor.edit(requests_for(*(numbers or range(len(FACTS)))))
    return model, editor, [result.detail["decision"] for result in results]


def edited_and_saved(folder: Path, *numbers: int, **options: Any) -> tuple[Any, GraceEditor]:
    """Edit the facts with these numbers (without numbers: all facts) and save the edits."""
    model, editor, _ = edited(*numbers, **options)
    save_state(model, folder)
    return model, editor


def loaded(folder: Path, case_ids: list[Any] | None = None, **options: Any) -> tuple[Any, GraceEditor]:
    """Load a folder's edits into an unedited model."""
    model = build_model(options.get("family", "llama"))
    load_state(model, build_tokenizer(), hparams_for(**options), folder, case_ids)
    return model, editor_on(model, **options)


def assert_same_edits(actual: GraceEditor, expected: GraceEditor) -> None:
    """Check that two editors hold bitwise the same edits and can undo them in the same way."""
    assert actual.codebook is not None
    assert expected.codebook is not None
    assert actual.codebook.labels == expected.codebook.labels
    for name in ("keys", "values", "radii"):
        assert torch.equal(getattr(actual.codebook, name), getattr(expected.codebook, name)), f"{name} differ"
    assert actual.case_ids == expected.case_ids
    assert actual.replay_support == expected.replay_support
    assert len(actual.changes) == len(expected.changes)
    for change, expected_change in zip(actual.changes, expected.changes, strict=True):
        assert (change.length, change.index, change.label) == (
            expected_change.length,
            expected_change.index,
            expected_change.label,
        )
        assert all(torch.equal(*tensors) for tensors in zip(change.row, expected_change.row, strict=True))


def flip_bit(path: Path, position: int) -> None:
    """Flip the lowest bit of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
