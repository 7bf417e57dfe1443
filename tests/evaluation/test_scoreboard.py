"""Teacher-forced scores of many edits equal values computed by hand: the model is a table of answers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.intervals import bootstrap
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.questions import Questions
from easyedit_lifelong.evaluation.scoreboard import Scoreboard, edit_success_of
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.scoreboard_requests import FRANCE, HAMLET, RETENTION
from tests.support.table_model import TableModel


def forced(scores: dict[str, float]) -> dict[str, float]:
    """Leave out what is generated."""
    return {name: score for name, score in scores.items() if METRICS[name].kind != "generated"}


def test_scores_before_editing_equal_values_computed_by_hand(board: Scoreboard) -> None:
    before = board.before([FRANCE, HAMLET]).values
    assert forced(before) == {
        "reliability_before": (0 + 0.5) / 2,  # "old" of "old king"
        "generality_before": 0.0,
        "portability_before": 0.0,  # "song" for "Spanish"
        "TRR_before": (1 + 0) / 2,  # "green cheese", and "snow" for "blue"
    }
    assert set(before) <= set(METRICS)


def test_portability_before_is_scored_on_the_unedited_model(model: TableModel) -> None:
    """The answer is half right before and wrong after: both scores together show the effect of the edit."""
    model.learn("language spoken in France", "Spanish song")
    request = EditRequest(
        0, FRANCE.prompt, "Rome", portability={"hop": (Probe("language spoken in France", "Spanish bird"),)}
    )
    board = Scoreboard(Scorer(model.tokenizer), model, [request], [])
    model.learn("language spoken in France", "not")
    assert board.before([request]).values["portability_before"] == 0.5
    assert board.score(model, [request]).values["portability"] == 0.0
    assert "portability_before" not in board.before([]).values


def test_locality_without_prompts_that_name_the_subject_of_another_edit(model: TableModel) -> None:
    """The edit of Peru rightly changes an answer, "London city", of a locality prompt of the edit of France."""
    france = replace(FRANCE, subject="France")
    peru = EditRequest("pe", "the capital of Peru is", "bird", subject="PERU")
    board = Scoreboard(Scorer(model.tokenizer), model, [france, peru], [])
    model.learn("the capital of Peru is", "bird")
    for edited in ([france, peru], None):
        scores = board.score(model, [france, peru], edited=edited).values
        assert scores["locality"] == 0.75 and scores["locality_other_subjects"] == 1.0
    of_sample = board.score(model, [france], edited=[france, peru]).values
    assert of_sample["locality_other_subjects"] == 1.0
    assert "locality_other_subjects" not in board.score(model, [france]).values


def test_scores_of_the_unedited_model_equal_values_computed_by_hand(board: Scoreboard, model: TableModel) -> None:
    assert board.score(model, [FRANCE, HAMLET]).values == {
        "ERR": 0.25,
        "reliability": 0.25,
        "generality": 0.0,
        "TRR": 0.5,
        "locality": 1.0,  # the answers are wrong, but unchanged
        "portability": 0.0,
        "ARR": 1.0,  # only "green cheese" was right before
    }


def test_scores_and_intervals_of_an_edited_model_equal_values_computed_by_hand(
    board: Scoreboard, model: TableModel
) -> None:
    model.learn(FRANCE.prompt, "Rome")
    model.learn("Hamlet is made", "old king")
    model.learn("Hamlet from", "old song")
    model.learn("the capital of Peru is", "Spanish")  # damage: 1 of the 2 tokens of "London city" changes
    model.learn("language spoken in France", "Spanish")
    model.learn("the sea is", "blue")
    scores = board.score(model, [FRANCE, HAMLET])
    assert scores.values == {
        "ERR": (1 + 0.5) / 2,
        "reliability": (1 + 0.5) / 2,
        "generality": pytest.approx((0 + 1 + 0.5) / 3),  # over rephrasings
        "TRR": 1.0,
        "locality": (0.5 + 1) / 2,
        "portability": 1.0,
        "ARR": 1.0,
    }
    assert scores.intervals == {
        "ERR": bootstrap([[1.0], [0.5]]),
        "reliability": bootstrap([[1.0], [0.5]]),
        "generality": bootstrap([[0.0], [1.0, 0.5]]),
        "TRR": bootstrap([[1.0], [1.0]]),  # over held-out facts
    }, "a score of one request has an interval, or another one has none"


def test_a_score_without_questions_is_absent(board: Scoreboard, model: TableModel) -> None:
    """Without locality prompts, locality is neither 1 nor 0."""
    assert set(board.score(model, [HAMLET]).values) == {"ERR", "reliability", "generality", "TRR", "ARR"}
    assert board.score(model, []).values == {"TRR": 0.5, "ARR": 1.0}
    assert forced(board.before([]).values) == {"TRR_before": 0.5}
    bare = Scoreboard(Scorer(model.tokenizer), model, [HAMLET], [])
    assert not {"TRR", "ARR"} & set(bare.score(model, [HAMLET]).values)


def test_the_unedited_model_is_queried_once(board: Scoreboard, model: TableModel) -> None:
    """The model is edited in place, so that it can't be queried later for its answers before."""
    model.received_texts.clear()
    model.learn(FRANCE.prompt, "Rome")
    assert board.before([FRANCE]).values["reliability_before"] == 0.0
    assert model.received_texts == []


def test_the_order_of_edits_does_not_change_the_scores(board: Scoreboard, model: TableModel) -> None:
    model.learn(FRANCE.prompt, "Rome")
    assert board.score(model, [FRANCE, HAMLET]) == board.score(model, [HAMLET, FRANCE])


SUBJECT = replace(
    FRANCE,
    ground_truth="Paris",
    relation_specificity=(Probe("France is far from", "Peru and London"), Probe("France plays", "piano")),
)


def test_relation_specificity_detects_edits_that_act_on_every_prompt_of_a_subject(model: TableModel) -> None:
    """Locality asks about other subjects and doesn't detect such an edit."""
    model.learn("France is far from", "Peru not London")
    board = Scoreboard(Scorer(model.tokenizer), model, [SUBJECT, HAMLET], RETENTION)
    assert board.score(model, [SUBJECT]).values["relation_specificity"] == 1.0  # the answers are wrong, but unchanged
    for prompt in (SUBJECT.prompt, *SUBJECT.rephrase_prompts, *(p.prompt for p in SUBJECT.relation_specificity)):
        model.learn(prompt, "Rome")
    scores = board.score(model, [SUBJECT, HAMLET]).values
    # 2 of the 3 tokens of "Peru and London" are chosen as before; "piano" gets "Rome" instead of "song".
    assert scores["relation_specificity"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["locality"] == 1.0
    assert scores["reliability"] == (1 + 0.5) / 2


def test_relation_specificity_prompts_change_no_other_score(model: TableModel) -> None:
    """The probes were right before and are wrong now; locality, ARR and ROME's neighbourhood don't count them."""
    for probe in SUBJECT.relation_specificity:
        model.learn(probe.prompt, probe.answer)
    without = replace(SUBJECT, relation_specificity=())
    board = Scoreboard(Scorer(model.tokenizer), model, [SUBJECT], RETENTION)
    for probe in SUBJECT.relation_specificity:
        model.learn(probe.prompt, "Rome")
    scores = board.score(model, [SUBJECT], thorough=True).values
    assert scores.pop("relation_specificity") < 1
    assert scores == board.score(model, [without], thorough=True).values
    assert {"locality", "ARR", "neighborhood_success", "neighborhood_magnitude"} <= set(scores)


def test_relation_specificity_has_an_interval_over_requests(model: TableModel) -> None:
    requests = [SUBJECT, replace(SUBJECT, case_id="again", relation_specificity=(Probe("Hamlet is in", "London"),))]
    board = Scoreboard(Scorer(model.tokenizer), model, requests, [])
    model.learn("France plays", "Rome")
    scores = board.score(model, requests)
    assert scores.values["relation_specificity"] == pytest.approx((1 + 0 + 1) / 3)
    assert scores.intervals["relation_specificity"] == bootstrap([[1.0, 0.0], [1.0]])


def test_questions_keep_the_order_of_the_requests() -> None:
    questions = Questions.about([FRANCE, HAMLET])
    assert questions.edit == [(FRANCE.prompt, "Rome"), (HAMLET.prompt, "old king")]
    assert questions.rephrase == [
        ("capital of France", "Rome"),
        ("Hamlet is made", "old king"),
        ("Hamlet from", "old king"),
    ]
    assert questions.locality == [("the capital of Peru is", "London city"), ("who plays piano", "Shakespeare")]
    assert questions.portability == [("language spoken in France", "Spanish")]


def test_a_locality_prompt_that_is_also_held_out_counts_in_both_scores(model: TableModel) -> None:
    """The unedited model answers the question once, and the answer counts in both scores."""
    request = EditRequest(0, FRANCE.prompt, "Rome", locality={"near": (RETENTION[0],)})
    board = Scoreboard(Scorer(model.tokenizer), model, [request], RETENTION)
    model.learn("moon made from", "old")
    # The first token of "green cheese" has changed; the second, given "green", has not.
    scores = board.score(model, [request])
    assert scores.values["locality"] == 0.5
    assert scores.values["TRR"] == (0.5 + 0) / 2
    assert scores.values["ARR"] == 0.5


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("qa", set()),
        ("classification", {"ERR_acc", "TRR_acc"}),
        ("generation", {"ERR_ppl", "TRR_ppl"}),
    ],
)
def test_each_task_adds_its_scores(model: TableModel, task: str, names: set[str]) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION, task=task)
    plain = {"ERR", "reliability", "generality", "locality", "portability", "TRR", "ARR"}
    assert set(board.score(model, [FRANCE, HAMLET]).values) == plain | names
    assert {f"{name}_before" for name in names} <= set(board.before([FRANCE, HAMLET]).values)
    free = set(board.score_generation(model, [FRANCE])[0].values)
    assert ("ERR_f1" in free, "TRR_f1" in free) == (task == "qa", task == "qa")


def test_classification_counts_only_complete_labels(model: TableModel) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION, task="classification")
    model.learn(FRANCE.prompt, "Rome")
    scores = board.score(model, [FRANCE, HAMLET]).values
    assert (scores["ERR_acc"], scores["ERR"]) == (0.5, 0.75), "accuracy counts a label that is half right"
    assert scores["TRR_acc"] == 0.5
    success = board.success(model, [FRANCE, HAMLET])
    assert [edit_success_of(scores) for scores in success] == [{"ES": 1.0, "ES_acc": 1.0}, {"ES": 0.5, "ES_acc": 0.0}]


def test_generation_scores_the_perplexity_of_targets(model: TableModel) -> None:
    """The table gives its choice a logit of 10 and 0 to the other 63: p = e^10 / (e^10 + 63) or 1 / (e^10 + 63)."""
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION, task="generation")
    total = math.exp(10) + 63
    wrong, mixed = total, math.sqrt(total / math.exp(10) * total)  # one of two tokens is right
    before = board.before([FRANCE, HAMLET]).values
    assert before["ERR_ppl_before"] == pytest.approx((wrong + mixed) / 2, rel=1e-4)
    model.learn(FRANCE.prompt, "Rome")
    scores = board.score(model, [FRANCE, HAMLET]).values
    assert scores["ERR_ppl"] == pytest.approx((total / math.exp(10) + mixed) / 2, rel=1e-4)
    assert scores["TRR_ppl"] == pytest.approx((total / math.exp(10) + wrong) / 2, rel=1e-4)
    (success,) = board.success(model, [FRANCE])
    assert edit_success_of(success)["ES_ppl"] == pytest.approx(total / math.exp(10), rel=1e-4)


def test_romes_scores_compare_the_target_with_the_true_answer(model: TableModel) -> None:
    requests = [replace(FRANCE, ground_truth="Paris"), replace(HAMLET, ground_truth="old Shakespeare"), HAMLET]
    board = Scoreboard(Scorer(model.tokenizer), model, requests, RETENTION)
    assert "efficacy_success" not in board.score(model, requests).values, "computed without thorough=True"
    before = board.before(requests).values
    assert before["efficacy_success_before"] == 0.0
    assert before["neighborhood_success_before"] == 0.5  # "London city", half right, beats "Rome"; a tie is no success
    model.learn(FRANCE.prompt, "Rome")
    model.learn("Hamlet is made", "old king")
    scores = board.score(model, requests, thorough=True).values
    assert scores["efficacy_success"] == 0.5, "a request without a true answer is counted"
    right, wrong = math.exp(10) / (math.exp(10) + 63), 1 / (math.exp(10) + 63)
    half = math.sqrt(right * wrong)
    assert scores["efficacy_magnitude"] == pytest.approx(((right - wrong) + (half - right)) / 2, rel=1e-4)
    assert scores["paraphrase_success"] == (0 + 0.5) / 2
    assert set(scores) <= set(METRICS)


def test_the_perplexity_of_a_held_out_text_is_scored_before_and_after(model: TableModel) -> None:
    text = "moon made from green cheese"
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE], [], text=text)
    good, bad = math.log(1 + 63 / math.exp(10)), math.log(math.exp(10) + 63)
    before = board.before([FRANCE]).values["text_perplexity_before"]
    assert before == pytest.approx(math.exp((2 * bad + 2 * good) / 4), rel=1e-4)  # the model knows "green cheese"
    assert "text_perplexity" not in board.score(model, [FRANCE]).values
    model.learn("moon made", "from green cheese")
    after = board.score(model, [FRANCE], thorough=True).values["text_perplexity"]
    assert after == pytest.approx(math.exp((bad + 3 * good) / 4), rel=1e-4)


def test_skipped_requests_that_were_correct_before_count_in_arr(board: Scoreboard, model: TableModel) -> None:
    """ARR counts answers that were right before and are not edited; answers that were wrong don't count."""
    model.learn("moon", "snow")
    known = [EditRequest("right", "moon", "snow"), EditRequest("wrong", "sea", "blue")]
    board = Scoreboard(board.scorer, model, [FRANCE, *known], RETENTION)
    assert board.score(model, [FRANCE], skipped=known).values["ARR"] == 1.0
    model.learn("moon", "old")
    assert board.score(model, [FRANCE], skipped=known).values["ARR"] == (1 + 0) / 2  # "green cheese" and "snow"
