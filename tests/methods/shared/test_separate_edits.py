"""The base class of methods whose edits are independent of each other: what it refuses, and what a failure leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from easyedit_lifelong import EditRecord, PluginHyperParams, SeparateEdit, SeparateEditor
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from tests.support.tiny_models import build_model

REQUEST = EditRequest.from_dict({"prompt": "the river is", "target_new": "blue"}, "here", case_id=7)


@dataclass(kw_only=True)
class BiasHyperParams(PluginHyperParams):
    """Hyperparameters of the method below."""

    ALG_NAME: ClassVar[str] = "Bias"

    strength: float = 1.0


class BiasEditor(SeparateEditor):
    """Adds the sum of the edits' vectors to the output of a block."""

    hparams_class = BiasHyperParams

    def attach(self, model: Any) -> Callable[[], None]:
        return model.model.layers[0].mlp.register_forward_hook(self.add_bias).remove

    def edits_changed(self) -> None:
        if self.edits:
            self.bias = torch.stack([edit.tensors["bias"] for edit in self.edits]).sum(0)

    def add_bias(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + self.hparams.strength * self.bias


def edit(data: dict[str, Any] | None = None, **tensors: Any) -> SeparateEdit:
    """Return an edit; by default with a vector of ones."""
    return SeparateEdit(EditRecord.of(REQUEST), data or {}, tensors or {"bias": torch.ones(32)})


def add(model: Any, *edits: SeparateEdit, strength: float = 1.0) -> Callable[[], None]:
    """Add edits to a model."""
    return BiasEditor.add(model, BiasHyperParams(model_name="tiny", device="cpu", strength=strength), edits)


def logits_of(model: Any) -> torch.Tensor:
    """Return the model's logits of three tokens."""
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7]])).logits


def test_the_width_of_the_model_is_that_of_the_vectors() -> None:
    """Otherwise, the tests below would find other errors than those that they are about."""
    model = build_model("llama")
    before = logits_of(model)
    remove = add(model, edit({"loss": 0.5, "tokens": [1, 2]}))
    assert not torch.equal(logits_of(model), before)
    remove()
    assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (edit({"loss": torch.tensor(0.1)}), r"case 7, its SeparateEdit: data\['loss'\] can't be saved as JSON"),
        (edit({"ids": [torch.tensor(1)]}), r"case 7, its SeparateEdit: data\['ids'\]"),
        (edit(bias=[0.0] * 32), r"case 7, its SeparateEdit: tensors\['bias'\] is of type list"),
    ],
)
def test_an_edit_that_could_not_be_saved_is_refused(refused: SeparateEdit, message: str) -> None:
    model = build_model("llama")
    before = logits_of(model)
    with pytest.raises(TypeError, match=message):
        add(model, edit(), refused)
    assert BiasEditor.all_on(model) == []
    assert torch.equal(logits_of(model), before)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("refused", "name"),
    [
        (edit(bias=torch.full((32,), NAN)), "tensors['bias']"),
        (edit(bias=torch.cat([torch.ones(31), torch.tensor([INF])])), "tensors['bias']"),
        (edit({"loss": NAN}), "data['loss']"),
        (edit({"losses": [0.5, {"last": (1, -INF)}]}), "data['losses']"),
    ],
)
def test_an_edit_with_numbers_that_are_not_finite_is_refused(refused: SeparateEdit, name: str) -> None:
    model = build_model("llama")
    with pytest.raises(EditError, match=re.escape(f"case 7, its SeparateEdit: {name} holds NaN or an infinite number")):
        add(model, edit(), refused)
    assert BiasEditor.all_on(model) == []


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (edit(bias=torch.ones(7)), r"tensors\['bias'\] has the shape \(7,\); that of the edit of case 7 has \(32,\)"),
        (edit(bias=torch.ones(1, 32)), r".*has the shape \(1, 32\)"),
        (edit(bias=torch.ones(32), scale=torch.ones(1)), "has the tensors bias, scale; the edit of case 7 has bias"),
        (edit(scale=torch.ones(32)), "has the tensors scale; the edit of case 7 has bias"),
    ],
)
def test_edits_that_do_not_fit_together_leave_no_trace(refused: SeparateEdit, message: str) -> None:
    model = build_model("llama")
    before = logits_of(model)
    with pytest.raises(ValueError, match=f"case 7, its SeparateEdit: {message}"):
        add(model, edit(), refused)
    assert BiasEditor.all_on(model) == []
    assert torch.equal(logits_of(model), before)

    add(model, edit())
    with_one = logits_of(model)
    with pytest.raises(ValueError, match=message):
        add(model, refused, strength=5.0)
    assert torch.equal(logits_of(model), with_one)
    assert len(BiasEditor.all_on(model)[0].edits) == 1


def test_a_method_that_fails_when_edits_changed_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    add(model, edit())
    with_one, changed = logits_of(model), BiasEditor.edits_changed

    def fail_with_two(editor: BiasEditor) -> None:
        changed(editor)
        if len(editor.edits) == 2:
            raise RuntimeError("the method fails")

    monkeypatch.setattr(BiasEditor, "edits_changed", fail_with_two)
    with pytest.raises(RuntimeError, match="the method fails"):
        add(model, edit(), strength=5.0)
    assert torch.equal(logits_of(model), with_one)
    assert len(BiasEditor.all_on(model)[0].edits) == 1
