"""The self-consistency of edits: a table that continues prompts, so that the scores are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.self_consistency import SelfConsistency, continuation_scores
from easyedit_lifelong.evaluation.text_scores import ngram_entropy
from tests.support.scoreboard_requests import FRANCE, HAMLET
from tests.support.table_model import TableModel

EDITS = [replace(FRANCE, ground_truth="Paris"), HAMLET]
"""An edit with an old answer, and one without."""

PORTO = EditRequest(0, "The capital of Portugal is", "Porto", ground_truth="Lisbon")


def board_of(model: TableModel, requests: list[EditRequest]) -> Scoreboard:
    scorer = Scorer(model.tokenizer)
    return Scoreboard(scorer, model, requests, [], self_consistency=SelfConsistency(scorer, model, requests))


def scores_of(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(("old_", "continuation_"))}


def test_a_model_that_comes_back_to_its_old_answer_is_found(model: TableModel) -> None:
    board = board_of(model, EDITS)
    model.learn(FRANCE.prompt, "Rome the river Paris is old")
    model.learn(HAMLET.prompt, "old king moon moon moon moon")
    scores, generations = board.score_generation(model, EDITS)
    entropies = [ngram_entropy(text) for text in ("the river Paris is old", "moon moon moon moon")]
    assert entropies[1] == 0.0, "a text that repeats itself has no entropy"
    assert scores_of(scores.values) == {
        "old_answer": 1.0,  # of the one edit that has an old answer
        "continuation_entropy": pytest.approx(sum(entropies) / 2),
    }
    before = scores_of(board.before(EDITS).values)
    assert before == {"old_answer_before": 1.0}, "the unedited table writes nothing after its answers"
    assert [(one.continuation_before, one.continuation_after) for one in generations] == [
        ("Paris", "Rome the river Paris is old"),
        ("old Shakespeare", "old king moon moon moon moon"),
    ]
    assert generations[0].to_dict()["continuation_after"] == "Rome the river Paris is old"


def test_a_model_that_stays_with_its_new_answer_does_not_score(model: TableModel) -> None:
    board = board_of(model, EDITS)
    model.learn(FRANCE.prompt, "Rome the city of Rome is old")
    scores, _ = board.score_generation(model, EDITS)
    assert scores.values["old_answer"] == 0.0


def test_continuations_have_at_most_60_tokens(model: TableModel) -> None:
    model.config.max_position_embeddings = 100
    board = board_of(model, [FRANCE])
    model.learn(FRANCE.prompt, " ".join(["Rome"] * 70))
    _, (generation,) = board.score_generation(model, [FRANCE])
    assert generation.continuation_after is not None
    assert generation.continuation_after.split() == ["Rome"] * 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Porto.\n\nThe capital city of Portugal is Lisbon.", [1.0]),
        (" Porto. People from LISBON say", [1.0]),
        (" Lisbon, as ever", [1.0]),  # the edit failed
        (" Porto. The Lisboners live elsewhere", [0.0]),
        (" Porto. It lies on the Douro", [0.0]),
        ("", [0.0]),
    ],
)
def test_the_old_answer_is_found_as_whole_words_without_case(text: str, expected: list[float]) -> None:
    assert continuation_scores(PORTO, text)["old_answer"] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"ground_truth": None},
        {"ground_truth": "Porto"},
        {"ground_truth": "porto"},
        {"target_new": "New Lisbon"},
        {"prompt": "The capital of Portugal, not Lisbon, is"},
    ],
    ids=["none", "the target", "the target in lower case", "in the target", "in the prompt"],
)
def test_an_edit_may_have_no_old_answer_to_look_for(changes: dict[str, Any]) -> None:
    assert continuation_scores(replace(PORTO, **changes), "Porto. Lisbon.")["old_answer"] == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (" Porto, a city on a river", ", a city on a river"),
        ("Lisbon, a city on a river", ", a city on a river"),
        ("Portoville is a city", "Portoville is a city"),
    ],
)
def test_the_entropy_is_that_of_the_text_after_the_answer(text: str, after: str) -> None:
    assert continuation_scores(PORTO, text)["continuation_entropy"] == [ngram_entropy(after)]


def test_a_text_of_two_words_after_the_answer_has_no_entropy() -> None:
    assert continuation_scores(PORTO, "Porto is nice")["continuation_entropy"] == []
