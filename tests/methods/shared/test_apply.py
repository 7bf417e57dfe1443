"""What all apply functions share: the warning of edits that are not learned."""

from __future__ import annotations

import warnings

import pytest
import torch

from easyedit_lifelong import UltraEditHyperParams, apply_ultraedit_to_model
from easyedit_lifelong.errors import NotLearnedWarning
from tests.conformance.method_cases import REQUESTS
from tests.support.tiny_models import build_model, build_tokenizer, state_of


def test_a_warning_that_is_an_error_leaves_the_model_unchanged() -> None:
    model = build_model("llama")
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    hparams = UltraEditHyperParams(model_name="tiny", inner_params=["model.layers.3.mlp.up_proj"], lr=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotLearnedWarning)
        with pytest.raises(NotLearnedWarning, match="an edit was not learned"):
            apply_ultraedit_to_model(model, build_tokenizer(), REQUESTS, hparams)
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not hasattr(model, "_easyedit_lifelong_editors")
