"""The scores of a run: a line of its metrics, a sample of its edits, and its summary."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.averages import Scores
from easyedit_lifelong.evaluation.intervals import bootstrap
from easyedit_lifelong.evaluation.sampling import sample_of
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.run_scores import score_all, single_round_scores, summarize
from easyedit_lifelong.runs.state import RunState
from tests.support.table_model import TableModel, answers_table

FRANCE = EditRequest(
    "fr",
    "the capital of France is",
    "Rome",
    rephrase_prompts=("capital of France",),
    locality={"near": (Probe("the capital of Peru is", "London city"), Probe("who plays piano", "Shakespeare"))},
    portability={"hop": (Probe("language spoken in France", "Spanish"),)},
)
HAMLET = EditRequest("ha", "who wrote Hamlet", "old king", rephrase_prompts=("Hamlet is made", "Hamlet from"))
RETENTION = [Probe("moon made from", "green cheese"), Probe("the sea is", "blue")]


@pytest.fixture
def model() -> TableModel:
    return answers_table()


def state_of(model: TableModel, *requests: EditRequest) -> RunState:
    state = RunState(model)
    state.attempted = list(requests)
    state.success = [1.0, 0.5, 0.0, 1.0][: len(requests)]
    state.journal = [{"status": "edited", "ES_ppl": 2.0 * n} for n, _ in enumerate(requests, 1)]
    state.counts["edited"] = len(requests)
    return state


MOON_REQUESTS = [EditRequest(n, f"moon {word}", "king") for n, word in enumerate(("sea", "snow", "bird", "song"))]


def test_a_scoring_writes_a_metrics_line_and_reports_it_to_trackers(model: TableModel, tmp_path: Path) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, HAMLET], RETENTION)
    model.learn(FRANCE.prompt, "Rome")
    state, folder = state_of(model, FRANCE, HAMLET), RunFolder(tmp_path / "run")
    received: list[dict[str, float]] = []
    tracker = SimpleNamespace(log=lambda step, metrics: received.append({"step": step, **metrics}))
    score_all(state, board, folder, [tracker], thorough=False, counts=lambda _: {"n_keys": 4.0}, n_seen=2, batch=3)
    assert not (folder.path / "generations.jsonl").exists()
    score_all(state, board, folder, [tracker], thorough=True, n_seen=2, batch=4)
    first, last = folder.read("metrics.jsonl")
    folder.close()
    assert first == state.curve[0]
    assert (first["n_edits"], first["batch"], first["ERR"], first["n_keys"]) == (2, 3, 0.75, 4.0)
    assert (first["ES"], first["ES_ppl"], first["edits_per_key"]) == (0.75, 3.0, 0.5)
    assert first["intervals"]["ES"] == list(bootstrap([[1.0], [0.5]]) or ())
    assert first["seconds_scoring"] > 0 and "sampled" not in first
    assert received[0]["step"] == 2 and {"ES", "intervals", "seconds_scoring"} <= set(received[0])
    assert "exact_match" in last and "exact_match" not in first
    lines = [json.loads(line) for line in (folder.path / "generations.jsonl").read_text().splitlines()]
    assert [(line["case_id"], line["before"], line["after"]) for line in lines] == [
        ("fr", "Paris", "Rome"),
        ("ha", "old Shakespeare", "old Shakespeare"),
    ]


def test_only_a_sample_is_scored_when_there_are_more_edits(model: TableModel) -> None:
    board = Scoreboard(Scorer(model.tokenizer), model, MOON_REQUESTS, RETENTION)
    state = state_of(model, *MOON_REQUESTS)
    sample = sample_of(MOON_REQUESTS, 2, 7)
    for request in sample:
        model.learn(request.prompt, "king")
    model.received_texts.clear()
    score_all(state, board, None, [], thorough=False, sample=2, seed=7)
    assert (state.curve[0]["ERR"], state.curve[0]["sampled"]) == (1.0, 2)
    assert state.curve[0]["ES"] == 2.5 / 4, "ES must be the mean over all edits, not over the sample"
    scored_prompts = {text for text in model.received_texts if text in {request.prompt for request in MOON_REQUESTS}}
    assert scored_prompts == {request.prompt for request in sample}
    score_all(state, board, None, [], thorough=False, sample=4, seed=7)
    assert "sampled" not in state.curve[1] and state.curve[1]["ERR"] == 0.5


def test_before_scores_are_of_the_same_sample_as_the_final_scores(model: TableModel) -> None:
    sample = sample_of(MOON_REQUESTS, 2, 7)
    for request in sample:
        model.learn(request.prompt, "king")
    board = Scoreboard(Scorer(model.tokenizer), model, MOON_REQUESTS, RETENTION)
    state = state_of(model, *MOON_REQUESTS)
    score_all(state, board, None, [], thorough=True, sample=2, seed=7)
    summary = summarize(state, board, {}, 1.0, sample=2, seed=7, n_batches=4)
    assert summary["metrics"]["reliability_before"] == 1.0
    assert summarize(state, board, {}, 1.0)["metrics"]["reliability_before"] == 0.5
    assert summary["n_batches"] == 4
    assert set(summary["metric_kinds"]) == set(summary["metrics"])
    assert summary["intervals"]["ERR"] == list(bootstrap([[1.0], [1.0]]) or ())
    assert {"TRR_before", "reliability_before"} <= set(summary["intervals"]) <= set(summary["metrics"])


def test_arr_is_the_share_of_skipped_requests_that_stay_right(model: TableModel) -> None:
    right, wrong = EditRequest("r", "who plays piano", "bird"), EditRequest("w", "sea", "blue")
    board = Scoreboard(Scorer(model.tokenizer), model, [FRANCE, right, wrong], [])
    state = state_of(model, FRANCE)
    for request in (right, wrong):
        line = {"case_id": request.case_id, "prompt": request.prompt, "target_new": request.target_new}
        state.journal.append({"status": "skipped", **line})
    score_all(state, board, None, [], thorough=False)
    assert state.curve[-1]["ARR"] == 1.0
    model.learn("who plays piano", "old")
    score_all(state, board, None, [], thorough=False)
    assert state.curve[-1]["ARR"] == 0.0, "the request that was wrong from the start must not count"


def test_single_round_scores_are_means_over_the_journal() -> None:
    state = RunState(None)
    state.success = [1.0, 0.0]
    state.journal = [
        {"status": "edited", "scores": {"reliability": [1.0], "generality": [0.5, 1.0], "TRR": [0.5]}},
        {"status": "failed", "scores": {"reliability": [0.0], "generality": [], "TRR": [1.0]}},
    ]
    scores = single_round_scores(state)
    assert isinstance(scores, Scores)
    assert scores.values == {"ES": 0.5, "ERR": 0.5, "reliability": 0.5, "generality": 0.75, "TRR": 0.75}
    assert scores.intervals["ERR"] == scores.intervals["reliability"] == bootstrap([[1.0], [0.0]])
    assert "generality" not in scores.intervals


def test_a_batch_counts_once_in_the_interval_of_trr() -> None:
    """The requests of a batch share one edited model, so their equal scores are one observation."""
    measured = [(0, 0.25), (1, 1.0), (2, 0.5)]
    state = RunState(None)
    state.journal = [
        {"status": "edited", "batch": n, "scores": {"TRR": [score]}} for n, score in measured for _ in range(50)
    ]
    del state.journal[-25:]
    scores = single_round_scores(state)
    assert scores.values["TRR"] == pytest.approx((50 * 0.25 + 50 * 1.0 + 25 * 0.5) / 125), (
        "the mean must be over requests, as for the other metrics"
    )
    assert scores.intervals["TRR"] == bootstrap([[0.25] * 50, [1.0] * 50, [0.5] * 25])
