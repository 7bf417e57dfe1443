"""``eos: true``: every method that trains on target tokens also trains on the end of the answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase
from tests.support.tiny_models import build_model, build_tokenizer

WITH_EOS = [case for case in CASES if not isinstance(case.hparams_class, str) and hasattr(case.hparams(), "eos")]
REQUEST = REQUESTS[0]


def end_log_probability(model: Any, tokenizer: Any) -> float:
    """Return the log-probability that the text ends after the request's target."""
    pair = encode_pair(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    with prompt_lengths(model, [len(pair.prompt)]), torch.no_grad():
        logits = model(input_ids=torch.tensor([pair.tokens])).logits[0, -1]
    return float(logits.log_softmax(dim=0)[tokenizer.eos_token_id])


@pytest.mark.parametrize("case", WITH_EOS, ids=lambda case: case.name)
def test_the_end_of_text_becomes_more_probable_after_the_target(case: MethodCase) -> None:
    tokenizer, after = build_tokenizer(), {}
    for eos in (False, True):
        model = build_model("llama")
        case.method.apply(model, tokenizer, [REQUEST], dataclasses.replace(case.hparams(), eos=eos))
        after[eos] = end_log_probability(model, tokenizer)
    assert after[True] > after[False] + 0.1


def test_a_tokenizer_without_an_end_of_text_token_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    case = next(case for case in WITH_EOS if case.name == "GRACE")
    model, hparams = build_model("llama"), dataclasses.replace(case.hparams(), eos=True)
    with pytest.raises(DataError, match=r"case france.*eos: the tokenizer has no end-of-text token"):
        case.method.apply(model, tokenizer, [REQUEST], hparams)
