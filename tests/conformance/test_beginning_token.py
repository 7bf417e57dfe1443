"""A prompt from a chat template begins with the beginning-of-text token: edits and scores see it once."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.shared.subject_positions import subject_position
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase, each_case
from tests.support.tiny_models import build_model, build_tokenizer, with_beginning_token


@each_case
def test_a_chat_prompt_is_answered_as_the_prompt_with_one_beginning_token(case: MethodCase) -> None:
    tokenizer, request, model = with_beginning_token(build_tokenizer()), REQUESTS[0], build_model("llama")
    prompt, target = request["prompt"], request["target_new"]
    case.method.apply(model, tokenizer, [{**request, "prompt": f"<s> {prompt}"}], case.hparams())
    of_chat, of_prompt = Scorer(tokenizer).forced(model, [(f"<s> {prompt}", target), (prompt, target)])
    assert of_chat == of_prompt


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.name)
def test_graces_key_of_a_chat_prompt_is_that_of_the_prompt(case: MethodCase) -> None:
    """The key decides exactly, so the edit is found only if both prompts have the same tokens."""
    tokenizer, request, model = with_beginning_token(build_tokenizer()), REQUESTS[0], build_model("llama")
    case.method.apply(model, tokenizer, [{**request, "prompt": f"<s> {request['prompt']}"}], case.hparams())
    row = torch.tensor([tokenizer(request["prompt"])["input_ids"]], device=model.device)
    assert tokenizer.decode(model(input_ids=row).logits[0, -1].argmax()) == request["target_new"]


def test_the_subject_of_a_chat_prompt_is_found_at_its_token() -> None:
    tokenizer = with_beginning_token(build_tokenizer())
    plain = subject_position(tokenizer, "the capital of France is", "France")
    assert plain == 4
    assert subject_position(tokenizer, "<s> the capital of France is", "France") == plain
