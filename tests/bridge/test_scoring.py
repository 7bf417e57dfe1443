"""EasyEdit's scoring functions, wrapped by the bridge."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.bridge.stubs import f1_score
from easyedit_lifelong.models.prompt_positions import PositionTracker
from tests.support.toy_method import Toy, ToyHyperParams

PROMPT, TARGET = "The capital of France is", "Paris and Rome"


@pytest.fixture
def utils(easyeditor: Any) -> Any:
    """EasyEdit's module of scoring functions."""
    return importlib.import_module("easyeditor.evaluate.evaluate_utils")


@pytest.fixture
def edited(toy: Toy, pair: Any) -> Any:
    """A model that answers with the target's first token, and its tokenizer."""
    toy.apply(*pair, [{"prompt": PROMPT, "target_new": TARGET}], None)
    return pair


def test_every_module_holds_the_wrapped_function(utils: Any) -> None:
    original = utils.test_prediction_acc.__wrapped__
    holders = [
        name
        for name, module in sys.modules.items()
        if name.startswith("easyeditor") and original in [v for v in vars(module).values() if callable(v)]
    ]
    assert holders == []
    assert sys.modules["easyeditor.evaluate.evaluate"].test_prediction_acc is utils.test_prediction_acc


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompt_ends_are_known_in_batches_padded_on_either_side(utils: Any, edited: Any, side: str) -> None:
    model, tok = edited
    tok.padding_side = side
    ends: list[list[int]] = []
    tracker = PositionTracker.of(model)
    assert tracker is not None
    handle = model.lm_head.register_forward_hook(lambda *_: ends.append(tracker.window.ends.tolist()))
    prompts, targets = [PROMPT, "Marie Curie worked in the city of"], [TARGET, "London"]
    utils.test_prediction_acc(model, tok, ToyHyperParams(None), prompts, targets, "cpu")
    handle.remove()
    batch = tok([f"{p} {t}" for p, t in zip(prompts, targets, strict=True)], padding=True)
    rows = [
        mask.index(1) + len(tok(prompt)["input_ids"]) - 1
        for mask, prompt in zip(batch["attention_mask"], prompts, strict=True)
    ]
    if side == "right" and "vanilla_generation" in utils.test_prediction_acc.__wrapped__.__code__.co_varnames:
        pytest.skip("main always pads on the left")
    assert ends == [rows]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # EasyEdit's mean of nothing
def test_a_prompt_that_fills_max_length_ends_at_its_last_token(utils: Any, edited: Any, flavour: str) -> None:
    if flavour == "main":
        pytest.skip("main makes room")
    model, tok = edited
    lengths: list[list[int]] = []
    tracker = PositionTracker.of(model)
    assert tracker is not None
    handle = model.lm_head.register_forward_hook(lambda *_: lengths.append(tracker.window.ends.tolist()))
    utils.test_prediction_acc(model, tok, ToyHyperParams(None, max_length=3), [PROMPT] * 2, [TARGET] * 2, "cpu")
    handle.remove()
    assert lengths == [[2, 2]]


def test_unedited_models_are_scored_as_by_easyedit(utils: Any, pair: Any) -> None:
    arguments = (*pair, ToyHyperParams(None), PROMPT, TARGET, "cpu")
    assert utils.test_prediction_acc(*arguments) == utils.test_prediction_acc.__wrapped__(*arguments)


def test_generation_is_compared_with_what_follows_the_prompt(main: Any, utils: Any, edited: Any) -> None:
    model, tok = edited
    ours, theirs = ToyHyperParams(None), SimpleNamespace(max_length=40)
    first = len(tok(" " + TARGET)["input_ids"])
    score = utils.test_prediction_acc(model, tok, ours, PROMPT, TARGET, "cpu", vanilla_generation=True)
    assert score[0] >= 1 / first
    assert utils.F1(model, tok, ours, PROMPT, "Rome", "cpu", vanilla_generation=True) >= 0
    for hparams, target in ((theirs, TARGET), (ours, " " + TARGET)):
        arguments = (model, tok, hparams, PROMPT, target, "cpu")
        expected = utils.test_prediction_acc.__wrapped__(*arguments, vanilla_generation=True)
        assert utils.test_prediction_acc(*arguments, vanilla_generation=True) == expected


@pytest.mark.parametrize(
    ("true", "predicted", "score"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1], [2], 0.0),
        ([1, 1, 2], [1, 2, 2], 2 / 3),
        ([5, 6, 7, 7], [5, 7, 7, 8], 0.375),  # scikit-learn 1.9.1: f1_score(…, average="macro")
    ],
)
def test_f1_equals_scikit_learns(true: list[int], predicted: list[int], score: float) -> None:
    assert f1_score(true, predicted, average="macro") == pytest.approx(score, abs=1e-15)


def test_f1_refuses_unequal_lengths_and_other_averages() -> None:
    with pytest.raises(ValueError, match="2 labels can't be compared with 1"):
        f1_score([1, 2], [1])
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        f1_score([1], [1], average="micro")
