"""Given the same target vectors, AlphaEdit makes the updates of its authors' code, over three consecutive batches.

``golden/alphaedit_authors.safetensors`` holds the second moments, target vectors and updates of a run of the authors'
code (jianghoucheng/AlphaEdit, commit f5248d3, ``apply_AlphaEdit_to_model`` and ``get_project``) in float64 on the tiny
models of ``make_pair``, with the context templates below and ``compute_z`` replaced by the given target vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong import AlphaEditHyperParams
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor
from tests.support.easyedit_memit import NAMES, REQUESTS
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "alphaedit_authors.safetensors")
TEMPLATES = [["{}"], ["The old king said. {}", "In Berlin there was. {}"]]
BATCHES = [
    REQUESTS[:2],
    REQUESTS[2:3],
    [{"prompt": "Marie Curie was born in", "target_new": "Rome", "subject": "Marie Curie", "case_id": "mc2"}],
]
LAYERS = [0, 1]


def editor_for(kind: str) -> AlphaEditEditor:
    model, tokenizer = make_pair(kind)
    model.double()
    hparams = AlphaEditHyperParams(model_name="tiny", layers=LAYERS, L2=10, nullspace_threshold=2e-2, **NAMES[kind])
    modules = dict(zip(LAYERS, hparams.rewrite_modules, strict=True))
    moments = {
        path: SecondMoment(GOLDEN[f"{kind}.{layer}.moment"].double(), 10**6, "a test")
        for layer, path in modules.items()
    }
    return AlphaEditEditor.on(model, tokenizer, hparams, moments, TEMPLATES)


@pytest.mark.parametrize("kind", sorted(NAMES))
def test_updates_of_three_batches_equal_those_of_the_authors_code(kind: str) -> None:
    editor, z = editor_for(kind), GOLDEN[f"{kind}.z"]
    weights: dict[int, Any] = {}
    begin = 0
    for number, batch in enumerate(BATCHES):
        for layer, path in zip(LAYERS, editor.hparams.rewrite_modules, strict=True):
            weights[layer] = editor.model.get_submodule(path).weight.detach().clone()
        editor.hparams.batch_size = len(batch)
        editor.edit(as_requests(batch), z[begin : begin + len(batch)])
        begin += len(batch)
        for layer, path in zip(LAYERS, editor.hparams.rewrite_modules, strict=True):
            update = editor.model.get_submodule(path).weight - weights[layer]
            expected = GOLDEN[f"{kind}.{layer}.update{number}"]
            largest = float(expected.abs().max())
            assert largest > 0.05, "the authors' update is not zero"
            torch.testing.assert_close(update, expected, rtol=0, atol=1e-8 * largest)
