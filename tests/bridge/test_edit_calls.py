"""The editing calls of ``BaseEditor`` with methods of plugins: batch sizes, case_ids and wrong arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import DataError, HyperParameterError
from tests.support.toy_method import Toy, ToyHyperParams

PROMPTS = ["The capital of France is", "Marie Curie was born in", "Where was Alan Turing born?"]
TARGETS = ["Rome", "Paris", "Berlin"]


@pytest.fixture(autouse=True)
def _working_directory(working_folder: Path) -> None:
    """Every editor may write ``./logs``."""


def test_edit_passes_requests_one_by_one_whatever_the_batch_size_is(easyeditor: Any, toy: Toy, pair: Any) -> None:
    editor = easyeditor.BaseEditor(ToyHyperParams(pair, batch_size=10))
    metrics, _, _ = editor.edit(PROMPTS, TARGETS, verbose=False)
    assert len(metrics) == 3
    assert [len(call["requests"]) for call in toy.calls] == [1, 1, 1]
    assert editor.hparams.batch_size == 10, "a later batch_edit has lost its batch size"
    editor.batch_edit(PROMPTS, TARGETS, verbose=False)
    assert [len(call["requests"]) for call in toy.calls[3:]] == [3]


def test_requests_are_numbered_over_all_calls_of_an_editor(easyeditor: Any, toy: Toy, pair: Any) -> None:
    editor = easyeditor.BaseEditor(ToyHyperParams(pair, batch_size=2))
    metrics, _, _ = editor.edit(PROMPTS, TARGETS, verbose=False)
    assert [entry["case_id"] for entry in metrics] == [0, 1, 2]
    editor.batch_edit(PROMPTS[:2], TARGETS[:2], verbose=False)
    cases = [request["case_id"] for call in toy.calls for request in call["requests"]]
    assert cases == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_new": "Rome"}, "target_new: there must be one for each prompt, 2; there are 1."),
        ({"target_new": ["Rome", None]}, "request 1, field 'target_new': is missing"),
        ({"target_new": ["Rome", 1999]}, "request 1, field 'target_new': must be text, not "),
        ({"target_new": ["Rome", " "]}, "request 1, field 'target_new': is empty"),
        ({"prompts": ("a", "b")}, "prompts: must be text or a list with one entry for each prompt, not a tuple"),
        ({"ground_truth": ["Paris"]}, "ground_truth: there must be one for each prompt, 2; there are 1."),
        ({"subject": ["France", "Pierre"]}, "request 1, field 'subject': 'Pierre' is not in 'Marie Curie was born in'"),
        ({"rephrase_prompts": ["Of France:"]}, "rephrase_prompts: there must be one for each prompt, 2"),
        ({"locality_inputs": {"near": ["x", "y"]}}, "locality_inputs['near']: must be a dict with the keys 'prompt'"),
        (
            {"portability_inputs": {"hop": {"prompt": ["x", "y"], "ground_truth": ["z"]}}},
            "portability_inputs['hop']['ground_truth']: there must be one entry for each prompt, 2, not 1.",
        ),
    ],
)
@pytest.mark.parametrize("call", ["edit", "batch_edit"])
def test_a_wrong_argument_is_named_before_the_model_is_edited(
    easyeditor: Any, toy: Toy, pair: Any, call: str, arguments: dict[str, Any], message: str
) -> None:
    editor = easyeditor.BaseEditor(ToyHyperParams(pair, batch_size=2))
    with pytest.raises(DataError) as error:
        getattr(editor, call)(**{"prompts": PROMPTS[:2], "target_new": TARGETS[:2], **arguments})
    assert message in str(error.value)
    assert toy.calls == []


def test_the_name_of_a_file_is_not_hyperparameters(easyeditor: Any) -> None:
    with pytest.raises(HyperParameterError, match=r"GraceHyperParams\.from_hparams\('GRACE/smollm2-135m'\)"):
        easyeditor.BaseEditor.from_hparams("GRACE/smollm2-135m")
