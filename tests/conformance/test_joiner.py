"""``joiner``: every method that trains on target tokens trains on the joiner, and saves it with the edit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from easyedit_lifelong import save_edits
from easyedit_lifelong.edits.folder_tensors import read_folder
from easyedit_lifelong.models.encoding import EncodedPair, encode_pair
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.conformance.method_cases import CASES, REQUESTS, MethodCase
from tests.support.tiny_models import build_model, build_tokenizer

TRAINED = [case for case in CASES if not isinstance(case.hparams_class, str) and hasattr(case.hparams(), "eos")]
REQUEST = REQUESTS[0]
JOINER = " not "

saving_case = pytest.mark.parametrize(
    "case", [case for case in TRAINED if case.name in ("GRACE", "FT-Retrain")], ids=lambda case: case.name
)


def log_probability(model: Any, pair: EncodedPair) -> float:
    """Return the log-probability of the target's first token, which is the joiner if that is a word."""
    with prompt_lengths(model, [len(pair.prompt)]), torch.no_grad():
        logits = model(input_ids=torch.tensor([pair.tokens])).logits[0, len(pair.prompt) - 1]
    return float(logits.log_softmax(dim=0)[pair.target[0]])


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_the_joiner_is_part_of_the_edit(case: MethodCase) -> None:
    tokenizer, after = build_tokenizer(), {}
    pair = encode_pair(tokenizer, REQUEST["prompt"], REQUEST["target_new"], JOINER)
    assert tokenizer.decode(pair.target) == "not Rome"
    for joiner in ("auto", JOINER):
        model = build_model("llama")
        case.method.apply(model, tokenizer, [REQUEST], dataclasses.replace(case.hparams(), joiner=joiner))
        after[joiner] = log_probability(model, pair)
    assert after[JOINER] > after["auto"] + 0.1


@saving_case
def test_saved_edits_have_the_joiner_of_the_request(case: MethodCase, tmp_path: Any) -> None:
    tokenizer, model = build_tokenizer(), build_model("llama")
    requests = [{**REQUEST, "joiner": JOINER}, REQUESTS[1]]
    case.method.apply(model, tokenizer, requests, case.hparams())
    save_edits(model, tmp_path / "edits")
    first, second = read_folder(tmp_path / "edits")[0]["parts"][0]["edits"]
    assert first["joiner"] == JOINER
    assert "joiner" not in second
