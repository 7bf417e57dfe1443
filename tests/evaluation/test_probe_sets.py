"""KnowEdit's sets and MQuAKE's questions have scores of their own."""

from __future__ import annotations

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.support.scoreboard_requests import FRANCE
from tests.support.table_model import TableModel


def _request(case_id: int, portability: dict[str, list[Probe]], locality: dict[str, list[Probe]]) -> EditRequest:
    sets = [{name: tuple(probes) for name, probes in kind.items()} for kind in (portability, locality)]
    return EditRequest(case_id, FRANCE.prompt, "Rome", portability=sets[0], locality=sets[1])


def test_each_set_is_scored_by_itself_and_the_average_over_all_sets_stays(model: TableModel) -> None:
    model.learn("language spoken in France", "Spanish song")
    half, right = Probe("language spoken in France", "Spanish bird"), Probe("language spoken in France", "Spanish song")
    request = _request(
        0, {"Reasoning": [half], "Subject_Aliasing": [right], "other": [right]}, {"Forgetfulness": [half]}
    )
    board = Scoreboard(Scorer(model.tokenizer), model, [request], [])
    model.learn("language spoken in France", "not song")
    scores, before = board.score(model, [request]).values, board.before([request]).values
    assert (before["reasoning_before"], before["subject_aliasing_before"]) == (0.5, 1.0)
    assert (scores["reasoning"], scores["subject_aliasing"], scores["forgetfulness"]) == (0.0, 0.5, 0.5)
    assert scores["portability"] == (0.0 + 0.5 + 0.5) / 3
    assert "logical_generalization" not in scores
    assert "forgetfulness_before" not in before, "locality is measured against the unedited model"
    assert set(scores) | set(before) <= set(METRICS)


def test_one_correct_answer_to_the_multi_hop_questions_of_a_case_is_a_success(model: TableModel) -> None:
    model.learn("language spoken in France", "Spanish song")
    right, half = Probe("language spoken in France", "Spanish song"), Probe("language spoken in France", "Spanish bird")
    requests = [_request(0, {"multi_hop": [half, right, half]}, {}), _request(1, {"multi_hop": [half, half]}, {})]
    board = Scoreboard(Scorer(model.tokenizer), model, requests, [])
    scores, before = board.score(model, requests).values, board.before(requests).values
    assert scores["multi_hop"] == before["multi_hop_before"] == 0.5
    assert scores["portability"] == (4 * 0.5 + 1) / 5, "all questions count"
