"""Inputs of modules are recorded, and the pass ends as soon as the last one is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.capture import input_batches, inputs_at, recording_inputs
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer

ROWS = [[4, 5, 6, 7, 8], [9, 10], [11, 12, 13], [9, 10]]


@torch.no_grad()
def test_a_recording_pass_ends_before_the_last_module_computes() -> None:
    model = build_model("llama")
    first, second, third = (model.model.layers[n].mlp.down_proj for n in range(3))
    recorded, computed = dict[str, Any](), list[int]()
    handles = [module.register_forward_hook(lambda *_: computed.append(1)) for module in (second, third)]
    with recording_inputs({"second": second, "first": first}, recorded.__setitem__, end=True):
        model(torch.tensor([[4, 5]]))
    assert sorted(recorded) == ["first", "second"]
    assert not computed, "the last module or a later one was computed"
    for handle in handles:
        handle.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())
    with recording_inputs({"first": first}, recorded.__setitem__):
        assert model(torch.tensor([[4, 5]])).logits.shape[:2] == (1, 2)


@torch.no_grad()
def test_an_input_given_by_keyword_is_recorded() -> None:
    layer, recorded = build_model("llama").model.layers[0].mlp.down_proj, dict[str, Any]()
    x = torch.ones(1, 1, layer.in_features)
    with recording_inputs({"layer": layer}, recorded.__setitem__):
        layer(input=x)
    assert recorded["layer"] is x


@torch.no_grad()
def test_inputs_of_padded_rows_equal_inputs_of_each_row_alone(family: str) -> None:
    model = build_model(family)
    runner = Runner(model, build_tokenizer())
    assert runner.anatomy is not None
    block = runner.anatomy.blocks[1]
    found = inputs_at(runner, block, ROWS)
    assert [len(inputs) for inputs in found] == [5, 2, 3, 2]
    for row, inputs in zip(ROWS, found, strict=True):
        alone: dict[str, Any] = {}
        with recording_inputs({"block": block}, alone.__setitem__):
            model(torch.tensor([row]))
        torch.testing.assert_close(inputs, alone["block"][0], rtol=1e-4, atol=1e-4)


def test_a_module_that_never_runs_is_refused_by_name() -> None:
    model = build_model("llama")
    with pytest.raises(ModelError, match="spare gets no vector for every token"):
        list(input_batches(Runner(model, build_tokenizer()), {"spare": torch.nn.Linear(2, 2)}, ROWS))
