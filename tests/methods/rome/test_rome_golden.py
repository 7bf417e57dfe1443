"""ROME computes the u, v* and updates of its authors' code, over three consecutive edits.

``golden/rome_authors.safetensors`` holds the second moment, and u, v* and the update of every edit, of two runs of the
authors' code (kmeng01/rome, ``execute_rome``) in float64 on the tiny GPT-2 of ``make_pair``: one with second moments
(``adjusted``), in which ‖δ‖ reaches its limit, and one without (``plain``), in which it does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong import NativeRomeHyperParams
from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.rome.editor import RomeEditor
from tests.support.easyedit_memit import NAMES, REQUESTS
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "rome_authors.safetensors")
TEMPLATES = [["{}", "The old king said. {}", "In Berlin there was. {}"]]
EDITS = [
    REQUESTS[0],
    {**REQUESTS[1], "target_new": "Berlin or Paris"},
    {"prompt": "I say that you and Alan Turing", "target_new": "London", "subject": "Alan Turing", "case_id": "at"},
]
SETTINGS = {
    "adjusted": {"mom2_adjustment": True, "v_lr": 0.5, "clamp_norm_factor": 1.5, "v_weight_decay": 0.5},
    "plain": {
        "mom2_adjustment": False,
        "v_lr": 1.0,
        "clamp_norm_factor": 20.0,
        "v_weight_decay": 1e-3,
        "kl_factor": 1e-3,
    },
}
TOLERANCE = 1e-8


def editor_for(kind: str) -> RomeEditor:
    model, tokenizer = make_pair("gpt2")
    model.double()
    hparams = NativeRomeHyperParams(
        model_name="tiny", layers=[1], v_num_grad_steps=40, **SETTINGS[kind], **NAMES["gpt2"]
    )
    moments = {path: SecondMoment(GOLDEN["moment"].double(), 10**6, "a test") for path in hparams.rewrite_modules}
    return RomeEditor.on(model, tokenizer, hparams, moments if kind == "adjusted" else None, TEMPLATES)


def assert_near(value: Tensor, expected: Tensor) -> None:
    """Assert that the largest difference is within the tolerance, relative to the largest value."""
    largest = float(expected.abs().max())
    assert largest > 0.05, "the authors' value is not zero"
    torch.testing.assert_close(value, expected, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("given", [True, False], ids=["v* given", "v* optimised"])
@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_three_edits_equal_those_of_the_authors_code(kind: str, given: bool) -> None:
    editor = editor_for(kind)
    path = editor.hparams.rewrite_modules[0]
    weight = editor.model.get_submodule(path).weight
    for number, edit in enumerate(EDITS):
        before = weight.detach().clone()
        target = GOLDEN[f"{kind}.target{number}"]
        if not given:
            found = editor.target_vectors([editor.encode(request) for request in as_requests([edit])], None, 1)
            assert_near(found.z[0], target)
        editor.edit(as_requests([edit]), target.unsqueeze(0) if given else None)
        direction = editor.state.batches[-1].layers[path].adjusted[:, 0]
        assert_near(direction / direction.norm(), GOLDEN[f"{kind}.u{number}"])
        assert_near(weight.detach() - before, GOLDEN[f"{kind}.update{number}"])
