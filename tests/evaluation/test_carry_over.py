"""The carry-over of edits: a table that answers plain prompts or chats, so that the scores are known."""

from __future__ import annotations

from typing import Any

import pytest

from easyedit_lifelong import in_chat_form
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.evaluation.carry_over import CarryOver
from easyedit_lifelong.evaluation.chat_requests import ChatSettings
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.chat_tokenizer import TEMPLATE
from tests.support.scoreboard_requests import FRANCE, HAMLET
from tests.support.table_model import TableModel


@pytest.fixture
def chatting(model: TableModel) -> TableModel:
    """A table whose tokenizer has a chat template."""
    model.tokenizer.chat_template = TEMPLATE
    return model


def board_of(model: TableModel, requests: list[EditRequest], chat: ChatSettings | None) -> Scoreboard:
    carry_over = CarryOver(model, model.tokenizer, requests, chat)
    return Scoreboard(Scorer(model.tokenizer), model, requests, [], carry_over=carry_over)


def scores_of(scores: Any, form: str) -> dict[str, float]:
    return {name: value for name, value in scores.values.items() if name.startswith(form)}


def test_edits_of_plain_prompts_are_scored_in_a_chat(chatting: TableModel) -> None:
    board = board_of(chatting, [FRANCE, HAMLET], None)
    chatting.learn(FRANCE.prompt, "Rome")
    chatting.learn(f"<s> where {HAMLET.prompt} sea born", "not old king")
    scores, _ = board.score_generation(chatting, [FRANCE, HAMLET])
    assert scores_of(scores, "chat_") == {
        "chat_reliability": 0.0,  # neither "Rome" nor "old king" follows in the chat
        "chat_generation_match": 0.0,
        "chat_contains_match": 0.5,  # "not old king"
    }
    assert scores.values["generation_match"] == 0.5
    before = scores_of(board.before([FRANCE, HAMLET]), "chat_")
    assert before == dict.fromkeys((f"{name}_before" for name in scores_of(scores, "chat_")), 0.0)


def test_edits_in_a_chat_are_scored_as_plain_prompts(chatting: TableModel) -> None:
    requests = in_chat_form([FRANCE, HAMLET], chatting.tokenizer)
    board = board_of(chatting, requests, ChatSettings())
    chatting.learn(FRANCE.prompt, "Rome")
    scores, _ = board.score_generation(chatting, requests)
    assert scores_of(scores, "plain_") == {
        "plain_reliability": (1 + 0.5) / 2,  # the table answers "old Shakespeare" to the plain prompt about Hamlet
        "plain_generation_match": 0.5,
        "plain_contains_match": 0.5,
    }


def test_a_model_without_a_chat_template_is_refused(model: TableModel) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        CarryOver(model, model.tokenizer, [FRANCE], None)


def test_a_prompt_that_exceeds_the_context_in_a_chat_is_refused(chatting: TableModel) -> None:
    prompt = " ".join(["the capital of France"] * 7)
    request = EditRequest(5, prompt, "Rome", source="facts.json, record 5")
    assert chatting.config.max_position_embeddings == 32
    assert Scorer(chatting.tokenizer).encode(prompt, "Rome").length == 29
    with pytest.raises(
        DataError,
        match=r"^facts\.json, record 5 \(case 5\), field 'prompt': with its answer in a chat it has 33 tokens, the "
        r"model's context is 32\. Shorten it or leave the record out\.$",
    ):
        CarryOver(chatting, chatting.tokenizer, [FRANCE, request], None)
