"""Which models are plain: those of which nothing but the weights has changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.models.greedy_rows import can_drop_rows
from easyedit_lifelong.models.plain_models import reads_rows_plainly
from tests.support.architectures import untrained
from tests.support.tiny_models import build_model, build_tokenizer


@pytest.mark.parametrize("suits", [reads_rows_plainly, can_drop_rows])
def test_an_edited_model_is_not_plain_until_its_edits_are_rolled_back(suits: Any) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[2].mlp.down_proj.weight"], n_iter=3)
    request = {"prompt": "the capital of France is", "target_new": "Rome"}
    assert suits(model)
    model, rollback = apply_grace_to_model(model, tokenizer, [request], hparams)
    assert not suits(model)
    rollback()
    assert suits(model)


def _with_hook(model: Any) -> Any:
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    return model


def _with_earlier_hook(model: Any) -> Any:
    model.model.layers[0].register_forward_pre_hook(lambda *_: None)
    return model


def _with_other_function(model: Any) -> Any:
    mlp = model.model.layers[1].mlp
    mlp.forward = mlp.forward
    return model


def _with_foreign_module(model: Any) -> Any:
    class Other(torch.nn.Identity):
        """A module of neither torch nor transformers."""

    model.model.norm = Other()
    return model


_CHANGES = [_with_hook, _with_earlier_hook, _with_other_function, _with_foreign_module, lambda model: model.half()]


@pytest.mark.parametrize("change", _CHANGES)
def test_a_model_that_more_than_its_weights_differ_in_is_not_plain(change: Any) -> None:
    model = build_model("llama")
    assert reads_rows_plainly(copy.deepcopy(model))
    assert not reads_rows_plainly(change(model))


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_other_kinds_of_models_are_not_plain(kind: str) -> None:
    assert not reads_rows_plainly(untrained(kind))
