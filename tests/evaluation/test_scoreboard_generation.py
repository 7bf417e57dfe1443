"""Scores of generated answers equal values computed by hand: the model is a table of answers."""

from __future__ import annotations

import pytest

from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.intervals import bootstrap
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.text_scores import ngram_entropy
from tests.support.scoreboard_requests import FRANCE, HAMLET, RETENTION
from tests.support.table_model import TableModel


def test_generated_answers_and_their_scores_equal_values_computed_by_hand(board: Scoreboard, model: TableModel) -> None:
    model.learn(FRANCE.prompt, "Rome")
    model.learn("Hamlet from", "old king of the sea")
    scores, generations = board.score_generation(model, [FRANCE, HAMLET])
    songs = " ".join(["song"] * 20)
    assert generations == [
        Generation("fr", FRANCE.prompt, "Rome", "Paris", "Rome", True, (("capital of France", songs, songs, False),)),
        Generation(
            "ha",
            HAMLET.prompt,
            "old king",
            "old Shakespeare",
            "old Shakespeare",
            False,
            (
                ("Hamlet is made", songs, songs, False),
                ("Hamlet from", songs, "old king of the sea", True),
            ),
        ),
    ]
    assert scores.values == {
        "generation_match": 0.5,
        "generation_match_word": 0.5,
        "generation_match_rephrase": pytest.approx(1 / 3),
        "exact_match": 0.5,
        "exact_match_rephrase": 0.0,  # "old king of the sea" is longer than the target
        "contains_match": 0.5,
        "contains_match_rephrase": pytest.approx(1 / 3),
        "ERR_f1": (1 + 2 * 1 / 4) / 2,  # "Rome"; "old" of "old Shakespeare" and "old king"
        "TRR_f1": (1 + 0) / 2,
    }
    assert scores.intervals["ERR_f1"] == bootstrap([[1.0], [0.5]])
    before = board.before([FRANCE, HAMLET]).values
    assert (before["ERR_f1_before"], before["TRR_f1_before"]) == ((0 + 0.5) / 2, 0.5)
    assert (before["exact_match_before"], before["contains_match_before"]) == (0.0, 0.0)


def test_fluency_before_and_after_is_the_entropy_of_the_generated_text(model: TableModel) -> None:
    """Fluency is computed only for a scoreboard with a text, because it costs time."""
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], [], text="moon made from green cheese")
    model.learn(FRANCE.prompt, "Rome London Berlin city river moon green cheese old king snow")
    generated = "the capital of France is Rome London Berlin city river moon green cheese old king snow"
    assert board.score_generation(model, [FRANCE])[0].values["fluency"] == ngram_entropy(generated)
    assert board.before([FRANCE]).values["fluency_before"] == ngram_entropy("the capital of France is Paris")
    without_text = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], [])
    assert "fluency" not in without_text.score_generation(model, [FRANCE])[0].values


def test_at_most_as_many_held_out_facts_are_generated_as_edits(model: TableModel) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], RETENTION[::-1])
    assert board.before([FRANCE]).values["TRR_f1_before"] == 0.0  # "snow" for "blue"; "green cheese" isn't generated
    assert board.score_generation(model, [FRANCE])[0].values["TRR_f1"] == 0.0
    assert board.before([FRANCE]).values["TRR_before"] == 0.5


def test_no_held_out_fact_is_generated_if_none_is_wanted(model: TableModel) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], RETENTION, generated_retention=0)
    assert "TRR_f1" not in board.score_generation(model, [FRANCE])[0].values
    assert board.before([FRANCE]).values["TRR_before"] == 0.5, "teacher-forced answers are missing, too"


def test_only_the_chosen_requests_are_generated(model: TableModel) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION, generation_requests=[HAMLET])
    model.learn(FRANCE.prompt, "Rome")
    scores, generations = board.score_generation(model, [FRANCE, HAMLET])
    assert scores.values["generation_match"] == 0.5
    assert [generation.case_id for generation in generations] == ["ha"]
    assert not board.generated.answered_before(FRANCE)
    without_generation = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION, generation_requests=[])
    assert {name for name in without_generation.before([FRANCE]).values if METRICS[name].kind == "generated"} == set()


def test_generation_has_room_for_a_long_answer(board: Scoreboard, model: TableModel) -> None:
    long_answer = " ".join(["blue", "sea", "mountain"] * 6)
    short, longer = board.generated.answers(model, [("moon", "blue"), ("sea", long_answer)])
    assert short.split() == ["song"] * 20
    assert longer.split() == ["song"] * 22


def test_a_visible_joiner_is_no_part_of_the_generated_answer(model: TableModel) -> None:
    scorer = Scorer(model.tokenizer)
    scorer.use_joiners({FRANCE.prompt: " not "})
    board = Scoreboard(scorer, model, [FRANCE], [])
    model.learn(FRANCE.prompt, "not Rome")
    scores, (generation,) = board.score_generation(model, [FRANCE])
    assert scores.values["generation_match"] == scores.values["exact_match"] == 1.0
    assert generation.after == "Rome"
    assert board.score(model, [FRANCE]).values["reliability"] == 1.0
    assert Scoreboard(Scorer(model.tokenizer), model, [FRANCE], []).score(model, [FRANCE]).values["reliability"] == 0.0
