"""The staged search: what it finds, its budget, and that a resumed search continues like an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.calibration.staged_search import COMBINATIONS, START, Budget, SearchResult, StagedSearch
from easyedit_lifelong.calibration.trials import Trial, TrialLog
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.methods.search_space import SearchStage, Values, alternatives, multiples

UNLIMITED = Budget(1e9)


@dataclass
class Settings:
    """Hyperparameters of a method that refuses layer 7."""

    layer: int = 0
    weight: float = 1.0
    radius: float = 1.0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.layer == 7:
            raise HyperParameterError("layer 7 does not exist")


STAGES = [
    alternatives("layers", "layer", [0, 1, 2, 7]),
    multiples("weight", "weight", (0.1, 10)),
    multiples("radius", "radius", (0.1, 10)),
]


def generality_of(settings: Settings) -> float:
    """Return a score with its best value at layer 2, weight 10 and radius 0.1; layer 0 is worthless."""
    return {0: 0.05, 1: 0.4, 2: 0.5}[settings.layer] + 0.1 * (settings.weight == 10) + 0.1 * (settings.radius == 0.1)


def search(
    path: Path,
    budget: Budget = UNLIMITED,
    *,
    stages: Sequence[SearchStage] = STAGES,
    generality: Callable[[Settings], float] = generality_of,
    start: Settings | None = None,
    prepared: list[list[Settings]] | None = None,
    seconds: Sequence[float] = (),
) -> tuple[SearchResult, list[Trial]]:
    """Run a search of trials that take 10 seconds each, or as long as ``seconds`` says."""

    def make_trial(number: int, stage: str, values: Values, settings: Any) -> Trial:
        scores = {"reliability": 1.0, "generality": generality(settings), "locality": 0.9}
        duration = seconds[number - 1] if seconds else 10.0
        return Trial(number, stage, dict(values), scores, 20, 0, duration)

    prepared = [] if prepared is None else prepared
    log = TrialLog(path)
    settings = start or Settings()
    result = StagedSearch(settings, None, stages, log, budget, make_trial, lambda new: prepared.append(list(new))).run()
    return result, log.trials


def test_the_best_value_of_each_stage_is_kept(tmp_path: Path) -> None:
    result, trials = search(tmp_path / "trials.jsonl")
    assert result.best.values == {"layer": 2, "weight": 10.0, "radius": 0.1}
    assert result.tried_fields == ("layer", "weight", "radius")
    assert result.ended_in == ""
    assert [trial.stage for trial in trials[:4]] == [START, "layers", "layers", "layers"]
    assert trials[1].objective == pytest.approx(3 / (1 / 1.0 + 1 / 0.4 + 1 / 0.9))
    assert len({json.dumps(trial.values, sort_keys=True) for trial in trials}) == len(trials), "a trial was repeated"


def test_a_second_round_finds_what_depends_on_a_later_stage(tmp_path: Path) -> None:
    def generality(settings: Settings) -> float:  # layer 2 is better than layer 1 only with the larger weight
        return {(1, 1.0): 0.5, (1, 10.0): 0.6, (2, 10.0): 0.9}.get((settings.layer, settings.weight), 0.1)

    result, _ = search(tmp_path / "trials.jsonl", generality=generality, stages=STAGES[:2])
    assert result.best.values == {"layer": 2, "weight": 10.0}


def coupled(settings: Settings) -> float:
    """Return a score that only layer 1 with weight 10 raises: no single change does."""
    return 0.9 if (settings.layer, settings.weight) == (1, 10.0) else 0.3


def test_combinations_find_what_no_single_change_does_and_are_as_many_as_the_trials_of_stages(tmp_path: Path) -> None:
    result, trials = search(tmp_path / "trials.jsonl", generality=coupled)
    stages = [trial for trial in trials if trial.stage != COMBINATIONS]
    combined = [trial for trial in trials if trial.stage == COMBINATIONS]
    assert 1 <= len(combined) <= len(stages)
    assert (result.best.values["layer"], result.best.values["weight"]) == (1, 10.0)
    assert result.best.stage == COMBINATIONS
    assert result.tried_fields == ("layer", "weight", "radius")


def test_of_equal_trials_the_values_to_begin_with_stay(tmp_path: Path) -> None:
    result, trials = search(tmp_path / "trials.jsonl", generality=lambda settings: 0.5)
    assert result.best is trials[0] and result.best.values == {}


def test_what_trials_need_is_prepared_once_for_all_candidates_of_a_stage(tmp_path: Path) -> None:
    prepared: list[list[Settings]] = []
    search(tmp_path / "trials.jsonl", prepared=prepared)
    assert [settings.layer for settings in prepared[0]] == [0, 1, 2]
    assert [(settings.layer, settings.weight) for settings in prepared[2]] == [(2, 0.1), (2, 10.0)]


def test_values_that_the_method_refuses_are_no_trial_of_the_budget(tmp_path: Path) -> None:
    _, trials = search(tmp_path / "trials.jsonl", Budget(1e9, trials=4))
    refused = [trial for trial in trials if trial.problem]
    assert [(trial.values, trial.problem) for trial in refused] == [({"layer": 7}, "layer 7 does not exist")]
    assert len(trials) == 5 and refused[0].objective == 0


def test_a_budget_of_trials_is_kept(tmp_path: Path) -> None:
    result, trials = search(tmp_path / "trials.jsonl", Budget(1e9, trials=3))
    assert len([trial for trial in trials if not trial.problem]) == 3
    assert result.ended_in == "weight"
    assert result.best.values == {"layer": 2}
    assert result.tried_fields == ("layer",)


@pytest.mark.parametrize(("seconds", "n_trials"), [(20, 2), (39, 3), (40, 4)])
def test_a_budget_of_seconds_is_kept(tmp_path: Path, seconds: float, n_trials: int) -> None:
    _, trials = search(tmp_path / "trials.jsonl", Budget(seconds))
    made = [trial for trial in trials if not trial.problem]
    assert len(made) == n_trials
    assert sum(trial.seconds for trial in made) <= seconds


def test_a_budget_of_seconds_has_room_for_a_trial_as_long_as_the_longest(tmp_path: Path) -> None:
    _, trials = search(tmp_path / "trials.jsonl", Budget(60), stages=STAGES[1:], seconds=[30, 5, 5, 5])
    assert [trial.seconds for trial in trials] == [30, 5], "another trial of 30 s would exceed the budget"


@pytest.mark.parametrize("budget", [Budget(15), Budget(1e9, trials=1)])
def test_a_budget_without_room_for_two_trials_is_refused_and_the_first_one_is_kept(
    tmp_path: Path, budget: Budget
) -> None:
    path = tmp_path / "trials.jsonl"
    with pytest.raises(RunError, match=r"no room for two trials.*took 10 s.*--resume and a larger budget.*200"):
        search(path, budget)
    assert len(TrialLog(path).trials) == 1
    assert search(path)[0].best.values == {"layer": 2, "weight": 10.0, "radius": 0.1}


@pytest.mark.parametrize("first", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("generality", [generality_of, coupled])
def test_a_resumed_search_equals_an_uninterrupted_one(
    tmp_path: Path, first: int, generality: Callable[[Settings], float]
) -> None:
    expected = search(tmp_path / "uninterrupted.jsonl", generality=generality)
    assert len(expected[1]) > 11
    path = tmp_path / "interrupted.jsonl"
    calls = []

    def count(settings: Settings) -> float:
        calls.append(settings)
        if len(calls) > first:
            raise KeyboardInterrupt
        return generality(settings)

    with pytest.raises(KeyboardInterrupt):
        search(path, generality=count)
    result, trials = search(path, generality=generality)
    assert [asdict(trial) for trial in trials] == [asdict(trial) for trial in expected[1]]
    assert result == expected[0]


def test_values_to_begin_with_that_the_method_refuses_end_the_search(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"

    def refuse(number: int, stage: str, values: Values, settings: Any) -> Trial:
        return Trial(number, stage, dict(values), {}, 0, 0, 0.0, "no such layer")

    with pytest.raises(HyperParameterError, match="no such layer"):
        StagedSearch(Settings(), None, STAGES, TrialLog(path), UNLIMITED, refuse, lambda new: None).run()
    assert not path.exists()


def test_an_incomplete_last_line_is_dropped_and_the_file_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    _, trials = search(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-25])
    log = TrialLog(path)
    assert log.trials == trials[:-1]
    log.add(trials[-1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "is not JSON"), ("[]", "isn't a JSON object"), ('{"number": 1, "stage": 3}', "stage can't be 3")],
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "trials.jsonl"
    search(path)
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunError, match=rf"trials.jsonl, line 1: {problem}.*--out"):
        TrialLog(path)


def test_multiples_of_a_text_or_of_zero_are_not_tried() -> None:
    stage = multiples("radius", "radius", (0.1, 3))
    assert stage.candidates(Settings(radius=0.7), None) == [{"radius": 0.07}, {"radius": 2.1}]
    assert stage.candidates(Settings(radius="auto"), None) == []  # type: ignore[arg-type]
    assert stage.candidates(Settings(radius=0.0), None) == []
