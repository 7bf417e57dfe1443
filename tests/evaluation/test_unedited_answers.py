"""Scoreboards that share the unedited model's answers: each question is answered once for each model."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.multiple_choice import MultipleChoiceScores
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from tests.support.scoreboard_requests import FRANCE, HAMLET, RETENTION
from tests.support.table_model import TableModel


@pytest.fixture
def answers() -> UneditedAnswers:
    """No answers yet."""
    return UneditedAnswers()


def scoreboard(
    model: TableModel, answers: UneditedAnswers, *requests: EditRequest, scorer: Scorer | None = None
) -> Scoreboard:
    return Scoreboard(scorer or Scorer(model.tokenizer), model, requests, RETENTION, unedited_answers=answers)


def test_a_second_scoreboard_has_the_same_scores_without_running_the_model(
    board: Scoreboard, model: TableModel, answers: UneditedAnswers
) -> None:
    requests = [FRANCE, HAMLET]
    first = scoreboard(model, answers, *requests)
    assert first.before(requests).values == board.before(requests).values
    model.received_texts.clear()
    model.generate = None  # type: ignore[assignment]
    second = scoreboard(model, answers, *requests)
    assert model.received_texts == []
    assert second.before(requests).values == board.before(requests).values
    assert (second.unedited, second.generated.unedited) == (board.unedited, board.generated.unedited)


def test_a_second_scoreboard_has_the_same_multiple_choice_scores_without_running_the_model(
    model: TableModel, answers: UneditedAnswers
) -> None:
    items = [MultipleChoiceItem("the sea is", ("snow", "blue"), 1, "nature"), MultipleChoiceItem("moon", ("old",), 0)]
    model.learn(items[0].prompt, "blue")
    before = MultipleChoiceScores(model.tokenizer, model, items).unedited
    assert before.values["capability"] == 1.0
    first = MultipleChoiceScores(model.tokenizer, model, items, answers)
    model.received_texts.clear()
    second = MultipleChoiceScores(model.tokenizer, model, items, answers)
    assert model.received_texts == []
    assert before.entry() == first.unedited.entry() == second.unedited.entry()
    model.learn(items[0].prompt, "snow")
    assert second.score(model).values["capability"] == 0.5, "an edited model was given the unedited model's answers"


def test_scoreboards_share_multiple_choice_answers(model: TableModel, answers: UneditedAnswers) -> None:
    items = [MultipleChoiceItem("the sea is", ("snow", "blue"), 1)]

    def board() -> Scoreboard:
        scorer = Scorer(model.tokenizer)
        return Scoreboard(scorer, model, [FRANCE], RETENTION, capability=items, unedited_answers=answers)

    first = board()
    model.received_texts.clear()
    assert board().before([FRANCE]).values == first.before([FRANCE]).values
    assert model.received_texts == []


def test_only_questions_that_are_new_are_answered(model: TableModel, answers: UneditedAnswers) -> None:
    scoreboard(model, answers, FRANCE)
    model.received_texts.clear()
    assert (HAMLET.prompt, HAMLET.target_new) in scoreboard(model, answers, FRANCE, HAMLET).unedited
    assert model.received_texts and not any(FRANCE.prompt in text for text in model.received_texts)


def test_a_model_with_other_weights_answers_again(model: TableModel, answers: UneditedAnswers) -> None:
    old = scoreboard(model, answers, FRANCE)
    model.learn(FRANCE.prompt, "Rome")
    with torch.no_grad():
        model.embedding.weight.add_(1)
    new = scoreboard(model, answers, FRANCE)
    assert old.before([FRANCE]).values["reliability_before"] == 0.0
    assert new.before([FRANCE]).values["reliability_before"] == 1.0
    assert new.generated.unedited[FRANCE.prompt, "Rome"] == "Rome"


def test_a_scorer_that_marks_no_prompts_asks_again(model: TableModel, answers: UneditedAnswers) -> None:
    question = (FRANCE.prompt, "Rome")
    answers.forced(Scorer(model.tokenizer), model, [question])
    model.received_texts.clear()
    answers.forced(Scorer(model.tokenizer, marks_prompts=False), model, [question])
    assert model.received_texts


def test_another_joiner_is_another_question(model: TableModel, answers: UneditedAnswers) -> None:
    scoreboard(model, answers, FRANCE)
    model.received_texts.clear()
    scoreboard(model, answers, FRANCE, scorer=Scorer(model.tokenizer, joiner=" of "))
    assert any(text.startswith(FRANCE.prompt) for text in model.received_texts)
