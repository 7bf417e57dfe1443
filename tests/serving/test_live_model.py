"""A live model: each version's logits are bitwise those that it had when it was made, also after a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import folder_parts
from easyedit_lifelong.edits.edits_folder import read_index
from easyedit_lifelong.edits.state_folder import StateFolder
from easyedit_lifelong.errors import DataError, PluginError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.subject import model_statistics
from easyedit_lifelong.methods.shared.subject_keys import model_neighbourhood
from easyedit_lifelong.models import padding, prompt_positions
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.serving.edit_errors import NoSuchEditError, NotRemovableError, NotServableError
from easyedit_lifelong.serving.edit_log import EditLog
from easyedit_lifelong.serving.measured_edits import MeasuredEdits
from easyedit_lifelong.serving.servable import check_servable
from tests.support.corpus import write_corpus
from tests.support.served_models import fine_tuning, grace, live_model, logits, requests, same
from tests.support.subject_edits import REQUESTS
from tests.support.subject_edits import hparams as by_subject
from tests.support.tiny_models import build_model, state_of

HPARAMS = {"GRACE": grace, "FT-L": fine_tuning}


@pytest.mark.parametrize("method", HPARAMS)
def test_every_version_answers_as_it_did_when_it_was_made(tmp_path: Path, method: str) -> None:
    hparams = HPARAMS[method]()
    base = logits(build_model("llama"))
    with live_model(tmp_path, hparams) as live:
        observed = [base]

        def observe(*_: Any) -> None:
            observed.append(logits(live.model))

        observe(live.add(requests(0), "key"))
        observe(live.add(requests(1, 2), "key"))
        if method == "GRACE":
            observe(live.delete("f0", "key"))
        observe(live.roll_back(1, "key"))
        observe(live.roll_back(0, "key"))
        observe(live.add(requests(3), "key"))
        assert same(observed[-2], base)
        assert same(observed[-3], observed[1])
        assert not same(observed[1], base)
        for version in (0, 2, 1, len(observed) - 1, 0):
            with live.at(version) as model:
                assert same(logits(model), observed[version]), version
            assert same(logits(live.model), observed[-1])
        present = live.log.ids_at(live.version)
    with live_model(tmp_path, hparams) as live:
        assert live.log.ids_at(live.version) == present == ["f3"]
        for version, expected in enumerate(observed):
            with live.at(version) as model:
                assert same(logits(model), expected), version


def test_the_base_model_shares_the_weights_and_has_no_hooks(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        with live.at(0) as base:
            assert base is not live.model
            assert all(a is b for a, b in zip(base.parameters(), live.model.parameters(), strict=True))
            assert prompt_positions.PositionTracker.of(base) is None


def test_deletion_restores_bitwise_and_can_be_made_once(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0, 1), "key")
        before, state = logits(live.model), state_of(live.model)
        live.add(requests(4), "key")
        live.delete("f4", "key")
        assert same(logits(live.model), before)
        assert state_of(live.model).keys() == state.keys()
        with pytest.raises(NoSuchEditError, match="removed already"):
            live.delete("f4", "key")
        with pytest.raises(NoSuchEditError, match="does not exist"):
            live.delete("f5", "key")
        assert live.version == 3


def test_edits_in_batches_are_removed_by_rollback_only(tmp_path: Path) -> None:
    with live_model(tmp_path, fine_tuning()) as live:
        live.add(requests(0), "key")
        with pytest.raises(NotRemovableError, match=r"in place\. Roll back to a version without it instead \(POST"):
            live.delete("f0", "key")
        assert live.version == 1


def test_results_are_measured(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        assert live.add(requests(0, 1), "key").superseded == []
        assert live.add(requests(4), "key").superseded == ["f0"]
        assert live.log.edits["f4"]["learned"]
        assert live.log.edits["f4"]["text"].startswith("London")
        live.delete("f4", "key")
    with live_model(tmp_path) as live:  # what the recent edits answered is measured anew
        assert live.add(requests(5), "key").superseded == []


@pytest.mark.parametrize("point", ["measure", "state", "journal"])
def test_a_failed_change_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        before = logits(live.model)

        def fail(*_: Any, **__: Any) -> None:
            raise RunError("the disk is full")

        changes: list[Callable[[], Any]] = [lambda: live.add(requests(1, 2), "key")]
        if point != "measure":  # removals measure nothing
            changes += [lambda: live.delete("f0", "key"), lambda: live.roll_back(0, "key")]
        owner, name = {
            "measure": (MeasuredEdits, "answered"),
            "state": (StateFolder, "save"),
            "journal": (EditLog, "_append"),
        }[point]
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            for change in changes:
                with pytest.raises(RunError, match="full"):
                    change()
                assert live.version == 1
                assert same(logits(live.model), before)
        live.add(requests(1), "key")
        after = logits(live.model)
    with live_model(tmp_path) as live:
        assert same(logits(live.model), after)
        assert live.log.ids_at(2) == ["f0", "f1"]


def test_a_model_that_could_not_be_restored_refuses_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")

        def fail(*_: Any, **__: Any) -> None:
            raise RunError("the disk is gone")

        monkeypatch.setattr(StateFolder, "save", fail)
        monkeypatch.setattr(StateFolder, "load", fail)
        with pytest.raises(RunError):
            live.add(requests(1), "key")
        for use in (lambda: live.add(requests(1), "key"), lambda: live.at(1).__enter__(), lambda: live.explain("a", 1)):
            with pytest.raises(NotServableError, match="disk is gone"):
                use()


def test_no_edit_computes_statistics_of_the_model_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    facts = [EditRequest.from_dict(request, "request") for request in REQUESTS[:4]]
    with live_model(tmp_path / "edits", by_subject("late-relations", folder=write_corpus(tmp_path, 30))) as live:
        for owner, name in (
            (model_neighbourhood, "Neighbourhood"),
            (model_statistics, "whitening_for"),
            (model_statistics, "relation_metric_for"),
            (padding, "_try_padding"),
        ):
            monkeypatch.setattr(owner, name, fail)
        monkeypatch.setattr(folder_parts, "base_fingerprint", fail)
        live.add(facts[:1], "key")
        live.add(facts[1:2], "key")
        live.roll_back(0, "key")
        live.add(facts[2:3], "key")
        live.roll_back(2, "key")
        live.add(facts[3:], "key")
        live.delete("c3", "key")
        before = live.model
        with live.present.answers_running([before]):  # answers run
            live.add([dataclasses.replace(facts[2], case_id="c4")], "key")
        assert live.model is not before
        live.delete("c4", "key")
        assert live.log.ids_at(live.version) == ["c0", "c1"]
        state = live.log.state_folder(live.log.present.state)
        assert read_index(state)["model"]["fingerprint"] == model_fingerprint(build_model("llama"))


def test_requests_are_checked_before_anything_changes(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        long = EditRequest("long", "the " * 70, "Rome")
        with pytest.raises(DataError, match="context is 64"):
            live.add([*requests(0), long], "key")
        assert live.version == 0
        assert same(logits(live.model), logits(build_model("llama")))


def test_explanations_are_those_of_the_version(tmp_path: Path) -> None:
    with live_model(tmp_path) as live:
        live.add(requests(0), "key")
        live.add(requests(4), "key")
        prompt = requests(0)[0].prompt
        answered_by = [
            explanation.grace[0].answered_by if (explanation := live.explain(prompt, version)) else None
            for version in (0, 1, 2)
        ]
        assert answered_by == [None, "f0", "f4"]


def test_a_method_that_can_not_be_served_is_refused() -> None:
    def apply(*_: Any, **__: Any) -> Any:
        raise AssertionError

    with pytest.raises(PluginError, match="Toy can't be served"):
        check_servable(EditMethod("Toy", dict, apply))
