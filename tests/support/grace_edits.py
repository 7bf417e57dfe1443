"""GRACE edits of a tiny Llama that add, split, cover and supersede."""

from __future__ import annotations

from typing import Any

import torch

from easyedit_lifelong import (
    GraceHyperParams,
    apply_grace_to_model,
)
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.coachhook_edits import FACTS
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

EDITS = [
    *({"case_id": f"c{n}", "prompt": prompt, "target_new": target} for n, (prompt, target, _) in enumerate(FACTS)),
    {"case_id": "c4", "prompt": FACTS[0][0], "target_new": "London"},
    {"case_id": "c5", "prompt": FACTS[1][0], "target_new": FACTS[1][1]},
    {"case_id": "c6", "prompt": "snow and mountain", "target_new": "Peru"},
]
"""With eps 3: additions, splits, a key taken over, a key covered."""


def hparams(**options: Any) -> GraceHyperParams:
    values = {"inner_params": [FAMILIES["llama"][1]], "n_iter": 4, "eps": 3.0, **options}
    return GraceHyperParams(model_name="tiny", **values)


def edited(*groups: list[dict[str, Any]], **options: Any) -> tuple[Any, list[Any]]:
    model, undo = build_model("llama"), []
    for group in groups or [EDITS]:
        undo.append(apply_grace_to_model(model, build_tokenizer(), group, hparams(**options))[1])
    return model, undo


def editor_of(model: Any) -> GraceEditor:
    (editor,) = GraceEditor.all_of(model).values()
    return editor


def entered_without(whole: GraceEditor, *out: int) -> dict[str, torch.Tensor]:
    """The codebook that comes of entering the edits anew, but for some."""
    from easyedit_lifelong.methods.grace.codebook.edit_history import rows_of, trained_edits

    assert whole.codebook is not None
    state = whole.codebook.state_dict()
    book = whole._new_codebook(state["keys"].shape[1], state["values"].shape[1], torch.device("cpu"))
    for n, entry in enumerate(trained_edits(whole.changes, rows_of(whole.codebook, whole.changes))):
        if n not in out:
            assert entry.query is not None
            book.enter(entry.query, entry.label, entry.value)
    return {name: tensor.clone() for name, tensor in book.state_dict().items()}


def book_of(model: Any) -> dict[str, torch.Tensor]:
    codebook = editor_of(model).codebook
    assert codebook is not None
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
