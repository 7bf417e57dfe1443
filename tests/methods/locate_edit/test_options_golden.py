"""Given the same target vectors, MEMIT, its variants and those of AlphaEdit make the updates of their authors' code.

``golden/locate_edit_options_authors.safetensors`` holds the target vectors of four facts, and two factors of the update
of each of two layers by each of three consecutive batches. They are from runs in float64 on the tiny Llama of
``make_pair``, with the context templates below, the second moments of ``golden/alphaedit_authors.safetensors``, and
``compute_z`` replaced by the given target vectors:

- ``memit``: kmeng01/memit, ``apply_memit_to_model``; ``memit_seq``: xpq-tech/BLUE (commit 311b076),
  ``apply_memit_seq_to_model``.
- ``memit_blue`` and ``alphaedit_blue``: xpq-tech/BLUE, ``apply_memit_to_model`` and ``apply_AlphaEdit_to_model``, with
  ``blue: true``.
- ``evoedit``: Euphoria040201/RLSEdit (commit 6688b89), ``apply_EvoEdit_to_model``. Its last fact differs, since this
  code does not edit a prompt twice.
- ``nas``: SasyaTitech/NAS (commit 5acab48), ``apply_NAS_to_model`` with its ``compute_z``, in which the steps of Adam
  were replaced by given changes. ``z`` are the target vectors before scaling, ``targets`` after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong import AlphaEditHyperParams, NativeMemitHyperParams
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.alphaedit.editor import AlphaEditEditor
from easyedit_lifelong.methods.locate_edit.norm_anchor import trimmed_mean
from easyedit_lifelong.methods.locate_edit.target_variants import TargetVariantsEditor
from easyedit_lifelong.methods.memit.editor import MemitEditor
from tests.support.easyedit_memit import NAMES, REQUESTS
from tests.support.toy_method import make_pair

FOLDER = Path(__file__).parents[2] / "golden"
MOMENTS = load_file(FOLDER / "alphaedit_authors.safetensors")
GOLDEN = load_file(FOLDER / "locate_edit_options_authors.safetensors")
TEMPLATES = [["{}"], ["The old king said. {}", "In Berlin there was. {}"]]
SAME_PROMPT_AGAIN = {
    "prompt": "Marie Curie was born in",
    "target_new": "Rome",
    "subject": "Marie Curie",
    "case_id": "mc2",
}
OTHER_PROMPT = {
    "prompt": "The Eiffel Tower stands in the city of",
    "target_new": "London",
    "subject": "Eiffel Tower",
    "case_id": "et",
}
NORM_ANCHOR = 20.0
MEMIT, ALPHAEDIT = (MemitEditor, NativeMemitHyperParams), (AlphaEditEditor, AlphaEditHyperParams)

VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "memit": (MEMIT, {}),
    "memit_seq": (MEMIT, {"accumulate_keys": True}),
    "memit_blue": (MEMIT, {"blue": True}),
    "alphaedit_blue": (ALPHAEDIT, {"blue": True}),
    "evoedit": (ALPHAEDIT, {"projector": "evolving"}),
    "nas": (ALPHAEDIT, {"norm_anchor": NORM_ANCHOR}),
}
"""By name in the golden file: the classes of the editor and of its hyperparameters, and the options."""


def editor_for(variant: str) -> TargetVariantsEditor:
    (editor_class, hparams_class), options = VARIANTS[variant]
    model, tokenizer = make_pair("llama")
    model.double()
    layers = [0, 1, 2] if options.get("blue") else [0, 1]
    values = {"mom2_update_weight": 2.0, **NAMES["llama"], **options}
    hparams = hparams_class(model_name="tiny", layers=layers, **values)
    moments = {
        path: SecondMoment(MOMENTS[f"llama.{min(layer, 1)}.moment"].double(), 10**6, "a test")
        for layer, path in zip(hparams.edited_layers, hparams.rewrite_modules, strict=True)
    }
    return editor_class.on(model, tokenizer, hparams, moments, TEMPLATES)


def batches_of(variant: str) -> list[list[dict[str, Any]]]:
    return [REQUESTS[:2], REQUESTS[2:3], [OTHER_PROMPT if variant == "evoedit" else SAME_PROMPT_AGAIN]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_of_three_batches_equal_those_of_the_authors_code(variant: str) -> None:
    editor, z, begin = editor_for(variant), GOLDEN[f"{variant}.z"], 0
    paths = dict(zip(editor.hparams.edited_layers, editor.hparams.rewrite_modules, strict=True))
    for number, batch in enumerate(batches_of(variant)):
        weights = {layer: editor.model.get_submodule(path).weight.detach().clone() for layer, path in paths.items()}
        editor.hparams.batch_size = len(batch)
        editor.edit(as_requests(batch), z[begin : begin + len(batch)])
        begin += len(batch)
        for layer, path in paths.items():
            update = editor.model.get_submodule(path).weight - weights[layer]
            left, right = (GOLDEN[f"{variant}.{layer}.{side}{number}"] for side in ("left", "right"))
            expected = left @ right.t()
            largest = float(expected.abs().max())
            assert largest > 0.02, "the authors' update is not zero"
            torch.testing.assert_close(update, expected, rtol=0, atol=1e-8 * largest)


def test_the_norm_anchor_leaves_out_the_largest_twentieth_as_the_authors_code_does() -> None:
    assert trimmed_mean(GOLDEN["nas.norms"]) == pytest.approx(float(GOLDEN["nas.trimmed_mean"]), rel=1e-12)
