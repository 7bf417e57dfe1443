"""Edits in chat form answer in the chat: every method edits and is scored on the same tokens."""

from __future__ import annotations

import pytest

from easyedit_lifelong import in_chat_form, save_edits
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.edits.folder_tensors import read_folder
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase
from tests.support.chat_tokenizer import chat_tokenizer
from tests.support.tiny_models import build_model

TRAINED = [case for case in CASES if not isinstance(case.hparams_class, str) and hasattr(case.hparams(), "eos")]


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_an_edit_in_chat_form_makes_its_target_more_probable_in_the_chat(case: MethodCase) -> None:
    tokenizer, model = chat_tokenizer(), build_model("llama")
    (request,) = in_chat_form(as_requests(REQUESTS[:1]), tokenizer)
    scorer = Scorer(tokenizer, joiner=request.joiner)
    question = [(request.prompt, request.target_new)]
    (before,) = scorer.forced(model, question)
    case.method.apply(model, tokenizer, [request], case.hparams())
    (after,) = scorer.forced(model, question)
    assert after.nll < before.nll - 0.05


def test_saved_edits_say_that_they_were_made_in_chat_form(tmp_path) -> None:
    tokenizer, model, case = chat_tokenizer(), build_model("llama"), CASES[0]
    case.method.apply(model, tokenizer, in_chat_form(as_requests(REQUESTS[:1]), tokenizer), case.hparams())
    case.method.apply(model, tokenizer, REQUESTS[1:2], case.hparams())
    save_edits(model, tmp_path / "edits")
    chat, plain = read_folder(tmp_path / "edits")[0]["parts"][0]["edits"]
    assert (chat["question"], chat["joiner"]) == (REQUESTS[0]["prompt"], "")
    assert chat["prompt"] == f"<s> where {REQUESTS[0]['prompt']} sea born "
    assert not {"question", "joiner"} & set(plain)


def test_earlier_turns_are_not_dropped_without_the_chat_form() -> None:
    request = {**REQUESTS[0], "context_turns": [{"role": "user", "content": "snow"}]}
    with pytest.raises(DataError, match="field 'context_turns'"):
        CASES[0].method.apply(build_model("llama"), chat_tokenizer(), [request], CASES[0].hparams())
