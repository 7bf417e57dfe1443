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
"""With eps 3, their decisions are add, split, supersede and covered."""


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


def codebook_without(editor: GraceEditor, *left_out: int) -> dict[str, torch.Tensor]:
    """Return the arrays of a codebook into which all edits but some are entered again."""
    from easyedit_lifelong.methods.grace.codebook.edit_history import further_rows_of, rows_of, trained_edits

    assert editor.codebook is not None
    state = editor.codebook.state_dict()
    codebook = editor._new_codebook(state["keys"].shape[1], state["values"].shape[1], torch.device("cpu"))
    rows, further = (of(editor.codebook, editor.changes) for of in (rows_of, further_rows_of))
    for n, entry in enumerate(trained_edits(editor.changes, rows, further)):
        if n not in left_out:
            assert entry.query is not None
            codebook.insert(entry.query, entry.label, entry.value)
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}


def codebook_state_of(model: Any) -> dict[str, torch.Tensor]:
    codebook = editor_of(model).codebook
    assert codebook is not None
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
