"""The edits of a trial: made in one loop on the unedited model, scored, and rolled back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from easyedit_lifelong.calibration.trial_edits import TrialEdits
from easyedit_lifelong.errors import EditError, ModelError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.calibrator import no_progress
from easyedit_lifelong.plugins import get_plugins
from tests.conformance.method_cases import CASES
from tests.support.calibration_records import records
from tests.support.tiny_models import build_model, build_tokenizer, state_of

REQUESTS = records()[:4]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model("llama")


@pytest.fixture(scope="module")
def hparams() -> Any:
    return next(case for case in CASES if case.name == "UltraEdit").hparams()


def edits_of(model: Any, method: EditMethod, hparams: Any) -> TrialEdits:
    return TrialEdits(method, model, build_tokenizer(), REQUESTS, hparams)


def test_a_trial_scores_all_edits_together_and_leaves_no_trace(model: Any, hparams: Any) -> None:
    method = get_plugins().methods.get("UltraEdit")
    edits, before, calls, scored_with = edits_of(model, method, hparams), state_of(model), [], []
    size = hparams.batch_size
    done: list[tuple[int, int]] = []

    def score(board_model: Any, requests: Any, original: Any = edits._board.score) -> Any:
        scored_with.append((len(requests), not torch.equal(before[path], board_model.state_dict()[path])))
        return original(board_model, requests)

    path = f"{hparams.inner_params[0]}.weight"
    edits._board.score = score  # type: ignore[method-assign]
    edits.method = dataclasses.replace(
        method, apply=lambda *arguments, **options: (calls.append(arguments[2]), method.apply(*arguments, **options))[1]
    )
    trial = edits.make(3, "layers", {"lr": 0.01}, hparams, lambda *progress: done.append(progress))
    assert [len(batch) for batch in calls] == [size] * (len(REQUESTS) // size)
    assert scored_with == [(4, True)], "the edits were not all on the model when they were scored"
    assert (trial.number, trial.stage, trial.values, trial.n_edits, trial.n_failed) == (3, "layers", {"lr": 0.01}, 4, 0)
    assert set(trial.scores) == {"reliability", "generality", "locality"} and trial.seconds > 0
    assert done[-1] == (5, 5)
    after = state_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_failed_edits_are_counted_and_scored_as_the_unedited_model(model: Any, hparams: Any) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise EditError("not finite")

    method = dataclasses.replace(get_plugins().methods.get("UltraEdit"), apply=fail)
    edits = edits_of(model, method, hparams)
    trial = edits.make(1, "start", {}, hparams, no_progress)
    assert trial.n_failed == 4
    assert trial.scores == edits.unedited()


def test_edits_are_rolled_back_if_the_scoring_fails(model: Any, hparams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, before = edits_of(model, get_plugins().methods.get("UltraEdit"), hparams), state_of(model)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(edits._board, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        edits.make(1, "start", {}, hparams, no_progress)
    after = state_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_method_without_a_rollback_is_refused(model: Any, hparams: Any) -> None:
    method = dataclasses.replace(get_plugins().methods.get("UltraEdit"), apply=lambda model, *_, **__: (model, {}))
    with pytest.raises(EditError, match="UltraEdit returns no rollback"):
        edits_of(model, method, hparams).make(1, "start", {}, hparams, no_progress)


def test_values_that_do_not_fit_the_model_are_a_trial_without_scores(model: Any, hparams: Any) -> None:
    edits = edits_of(model, get_plugins().methods.get("UltraEdit"), hparams)
    outside = dataclasses.replace(hparams, inner_params=["model.layers.9.mlp.down_proj"])
    trial = edits.make(2, "layers", {"inner_params": outside.inner_params}, outside, no_progress)
    assert trial.scores == {} and "model.layers.9" in trial.problem


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            ModelError("scope_layer: comes after the first edited projection"),
            "scope_layer: comes after the first edited projection",
        ),
        (torch.OutOfMemoryError("2 GiB"), "out of memory; a smaller batch_size may fit"),
    ],
)
def test_values_that_only_an_edit_refuses_are_a_trial_without_scores_and_leave_no_trace(
    model: Any, hparams: Any, error: Exception, problem: str
) -> None:
    method, before, calls = get_plugins().methods.get("UltraEdit"), state_of(model), []

    def refuse_second(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise error
        return method.apply(*arguments, **options)

    edits = edits_of(model, dataclasses.replace(method, apply=refuse_second), hparams)
    trial = edits.make(2, "combinations", {"lr": 0.5}, hparams, no_progress)
    assert (trial.scores, trial.problem) == ({}, problem)
    after = state_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
