"""What is said of a search: the choice, how sure it is, its cost, and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from easyedit_lifelong.calibration.held_out_records import held_out_records
from easyedit_lifelong.calibration.search_outcome import outcome_of
from easyedit_lifelong.calibration.staged_search import START, Budget, SearchResult
from easyedit_lifelong.calibration.trials import Trial, TrialLog
from easyedit_lifelong.calibration.values_text import values_text
from easyedit_lifelong.methods.calibrator import CalibrationOutcome
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from tests.support.calibration_records import records

UNEDITED = {"reliability": 0.0, "generality": 0.1, "locality": 1.0}


def trial(number: int, generality: float, **values: object) -> Trial:
    scores = {"reliability": 1.0, "generality": generality, "locality": 1.0}
    return Trial(number, "layers" if values else START, values, scores, 10, 0, 3.0)


def outcome(tmp_path: Path, trials: list[Trial], ended_in: str = "") -> CalibrationOutcome:
    log = TrialLog(tmp_path / "trials.jsonl")
    for entry in trials:
        log.add(entry)
    best = max(trials, key=lambda entry: entry.rank)
    held_out = held_out_records(records(), 10, None, "facts.json")
    result = SearchResult(best, ("layers", "inner_params"), ended_in)
    hparams = load_hparams("MEMIT-native/smollm2-135m")
    return outcome_of(hparams, result, log, Budget(60, 9), held_out, UNEDITED)


def test_the_choice_is_compared_with_the_values_to_begin_with(tmp_path: Path) -> None:
    refused = Trial(3, "layers", {"layers": [99]}, {}, 0, 0, 0.0, "no such layer")
    result = outcome(tmp_path, [trial(1, 0.5), trial(2, 0.7, layers=[4, 5, 6]), refused])
    assert result.chosen == {"layers": [4, 5, 6]}
    assert result.evidence == "records 0 to 9, counted from 0 (all); 3 trials in 6 s of at most 60 s and 9 trials"
    assert "Chosen: trial 2, layers 4-6: objective 0.875 (1.000 / 0.700 / 1.000)." in result.verdict[1]
    assert "The values to begin with: objective 0.750" in result.verdict[1]
    assert result.verdict[2] == (
        "One answer to a paraphrase more or less changes the objective by up to 0.048: "
        "0 other trials are within that of the best."
    )
    assert [row["chosen"] for row in result.rows] == [0, 1, 0]
    assert result.rows[2]["problem"] == "no such layer"
    assert ["3", "layers", "no such layer", "-", "-", "-", "0.000", "0", "0.0"] in [
        list(row) for row in result.tables[0].rows
    ]


def test_the_values_to_begin_with_can_be_the_best(tmp_path: Path) -> None:
    result = outcome(tmp_path, [trial(1, 0.7), trial(2, 0.7, layers=[4])], ended_in="weight")
    assert result.verdict[1].startswith("No trial was better than the values to begin with: objective 0.875")
    assert "1 other trial is within" in result.verdict[2]
    assert result.verdict[3] == "The budget ended in the stage 'weight'; --resume with a larger budget continues there."
    assert result.chosen == {"layers": [3, 4, 5, 6, 7]}


def test_a_table_for_a_terminal_has_the_best_trials_and_the_first(tmp_path: Path) -> None:
    trials = [trial(1, 0.1), *(trial(number, number / 20, layers=[number]) for number in range(2, 15))]
    rows = outcome(tmp_path, trials).short_tables[0].rows
    assert [row[0] for row in rows] == [*map(str, range(14, 4, -1)), "1", ""]
    assert rows[-1][1:] == ["unedited", "0.000", "0.100", "1.000", ""]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"layers": [3, 4, 5], "v_lr": 0.05}, "layers 3-5, v_lr 0.05"),
        ({"layers": [7]}, "layers 7"),
        ({"layers": [1, 5]}, "layers 1 … 5"),
        ({"inner_params": ["a.1", "a.2", "a.3"]}, "inner_params a.1 … a.3"),
        ({"gamma": "auto", "mom2_adjustment": False}, "gamma auto, mom2_adjustment False"),
    ],
)
def test_values_are_shown_in_a_short_form(values: dict[str, object], text: str) -> None:
    assert values_text(values) == text
