"""Multiple-choice accuracies equal those computed by hand, before and after edits, in plain forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.multiple_choice import BY_SUBJECT, MultipleChoiceScores, check_choices
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.prompt_edits import hparams_for
from tests.support.scoreboard_requests import FRANCE, RETENTION
from tests.support.table_model import TableModel
from tests.support.tiny_models import build_model

SEA = MultipleChoiceItem("the sea is", ("blue", "snow", "green cheese"), 1, "nature")
PIANO = MultipleChoiceItem("who plays piano", ("bird", "old king"), 0, "art")
MOON = MultipleChoiceItem("moon", ("old", "song song song"), 0)
ITEMS = [SEA, PIANO, MOON]


def log_likelihood(model: Any, tokenizer: Any, prompt: str, choice: str) -> float:
    """Return the log-likelihood of a choice in float64: one pass without padding for each of its tokens."""
    prompt_ids, total = tokenizer(prompt)["input_ids"], 0.0
    for token in tokenizer(choice)["input_ids"]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt_ids])).logits[0, -1].double()
        total += float(logits.log_softmax(dim=-1)[token])
        prompt_ids = [*prompt_ids, token]
    return total


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_log_likelihoods_equal_those_of_single_tokens(family: str, tokenizer: Any) -> None:
    model = build_model(family)
    values = MultipleChoiceScores(tokenizer, model, ITEMS).log_likelihoods(model)
    assert [len(of_item) for of_item in values] == [3, 2, 2]
    for item, of_item in zip(ITEMS, values, strict=True):
        expected = [log_likelihood(model, tokenizer, item.prompt, choice) for choice in item.choices]
        assert of_item == pytest.approx(expected, abs=1e-4)


def test_accuracies_are_scored_before_and_after_and_for_each_subject(model: TableModel) -> None:
    """The table continues every question with "song", so a choice of fewer other words is more likely.

    It answers SEA with the first of two equal choices (wrong), PIANO with the first (right), MOON with songs (wrong).
    """
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], RETENTION, capability=ITEMS)
    before = board.before([FRANCE])
    assert before.values["capability_before"] == pytest.approx(1 / 3)  # PIANO
    assert "capability_before" in before.intervals
    assert "capability" not in board.score(model, [FRANCE]).values
    model.learn(SEA.prompt, "snow")
    scores = board.score(model, [FRANCE], thorough=True)
    assert scores.values["capability"] == pytest.approx(2 / 3)
    entry = scores.entry()
    assert {name: of["capability"] for name, of in entry[BY_SUBJECT].items()} == {"nature": 1.0, "art": 1.0}
    by_subject = board.capability_by_subject(entry)
    assert (by_subject["nature"]["capability_before"], by_subject["nature"]["questions"]) == (0.0, 1)
    assert board.capability_by_subject({}) == {}


def test_the_norm_divides_by_the_number_of_characters(model: TableModel) -> None:
    """Two wrong tokens have log p = -2 l: more than one wrong token, but less for each character if they are long."""
    longer = MultipleChoiceItem("the sea is", ("snow", "mountain mountain"), 1)
    scores = MultipleChoiceScores(model.tokenizer, model, [longer]).unedited.values
    assert scores == {"capability": 0.0, "capability_norm": 1.0}


def test_without_subjects_or_questions_there_are_no_scores_of_them(model: TableModel) -> None:
    assert MultipleChoiceScores(model.tokenizer, model, [MOON]).unedited.further == {}
    assert MultipleChoiceScores(model.tokenizer, model, []).unedited.entry() == {"intervals": {}}


def test_a_model_that_gives_nan_has_no_right_answer(tokenizer: Any) -> None:
    model = build_model("gpt2")
    scores = MultipleChoiceScores(tokenizer, model, ITEMS)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    assert scores.score(model).values == {"capability": 0.0, "capability_norm": 0.0}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_of_a_question_is_found_in_plain_passes(family: str, tokenizer: Any) -> None:
    model = build_model(family)
    scores = MultipleChoiceScores(tokenizer, model, [SEA])
    received = []
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: received.append(set(kwargs)), with_kwargs=True)
    wrong = max(range(3), key=scores.log_likelihoods(model)[0].__getitem__)
    other = SEA.choices[(wrong + 1) % 2]
    apply_grace_to_model(model, tokenizer, [{"prompt": SEA.prompt, "target_new": other}], hparams_for(family))
    after = scores.log_likelihoods(model)[0]
    expected = [log_likelihood(model, tokenizer, SEA.prompt, choice) for choice in SEA.choices]
    assert after == pytest.approx(expected, abs=1e-4)
    assert max(range(3), key=after.__getitem__) == SEA.choices.index(other)
    assert not any("labels" in names for names in received)
    handle.remove()


def test_a_model_that_is_not_causal_and_a_question_that_is_too_long_are_refused(tokenizer: Any) -> None:
    long = MultipleChoiceItem("song " * 70, ("a", "b"), 0)
    with pytest.raises(DataError, match=r"question 1: with a choice it has 7\d tokens, the model's context is 64"):
        check_choices([SEA, long], tokenizer, build_model("gpt2"))
    with pytest.raises(DataError, match="multiple-choice questions need a causal language model"):
        check_choices([SEA], tokenizer, torch.nn.Linear(2, 2))
    check_choices([], tokenizer, torch.nn.Linear(2, 2))
