"""The plan of a run: defaults that are filled in, and what is refused before data and model are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from easyedit_lifelong import hookimpl, run_consecutive, run_lifelong
from easyedit_lifelong.errors import HyperParameterError, PluginError, RunError
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import TrackerType
from easyedit_lifelong.runs import execute as execution
from easyedit_lifelong.runs.experiment import CONSECUTIVE, LIFELONG, Data, Experiment
from easyedit_lifelong.runs.plan import Plan, make_plan
from easyedit_lifelong.runs.run_folder import RunFolder
from easyedit_lifelong.runs.schedule import Schedule


@dataclass(kw_only=True)
class BatchHyperParams(PluginHyperParams):
    """Hyperparameters of a method that edits batches."""

    ALG_NAME: ClassVar[str] = "BATCH"
    batch_size: int = 4


@dataclass(kw_only=True)
class SingleHyperParams(PluginHyperParams):
    """Hyperparameters of a method that edits one request at a time."""

    ALG_NAME: ClassVar[str] = "SINGLE"


def raise_missing_package() -> None:
    raise PluginError("the tracker's package isn't installed")


class Plugin:
    """Registers both methods, and a tracker whose package is missing."""

    @hookimpl
    def register_methods(self, register: Callable[[EditMethod], None]) -> None:
        register(EditMethod("BATCH", BatchHyperParams, lambda model, *_, **__: (model, None), batchable=True))
        register(EditMethod("SINGLE", SingleHyperParams, lambda model, *_, **__: (model, None)))

    @hookimpl
    def register_trackers(self, register: Callable[[TrackerType], None]) -> None:
        register(TrackerType("broken", lambda folder, config: None, check=raise_missing_package))


@pytest.fixture(autouse=True)
def plugin() -> Iterator[None]:
    """Register the plugin for one test."""
    plugin, plugins = Plugin(), get_plugins()
    plugins.add(plugin, "test-plan")
    yield
    plugins.remove("test-plan")


def plan_of(loop: str, hparams: Any = None, out: Any = None, resume: bool = False, **settings: Any) -> Plan:
    return make_plan(
        Experiment(loop, hparams or BatchHyperParams(model_name="m"), Data("f.json"), **settings), out, resume
    )


def test_each_loop_has_its_default_schedule() -> None:
    assert plan_of(LIFELONG).schedule == Schedule(50)
    assert plan_of(CONSECUTIVE).schedule == Schedule(20)
    assert plan_of(CONSECUTIVE, schedule=Schedule(at=(3,), sample=2)).schedule == Schedule(at=(3,), sample=2)


def test_the_batch_size_of_the_experiment_overrides_the_hyperparameters() -> None:
    assert plan_of(CONSECUTIVE).batch_size == 4
    plan = plan_of(CONSECUTIVE, batch_size=7)
    assert (plan.batch_size, plan.hparams.batch_size) == (7, 7), "the method must get the batch size of the loop"
    assert plan_of(CONSECUTIVE, SingleHyperParams(model_name="m")).batch_size == 1
    lifelong = plan_of(LIFELONG)
    assert (lifelong.batch_size, lifelong.hparams.batch_size) == (1, 4), (
        "the lifelong loop must not change the hyperparameters"
    )


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_an_invalid_batch_size_is_refused(size: Any) -> None:
    with pytest.raises(HyperParameterError, match=f"batch_size: {size!r} is not a whole number greater than 0"):
        plan_of(CONSECUTIVE, batch_size=size)


def test_a_method_that_edits_one_request_at_a_time_refuses_larger_batches() -> None:
    with pytest.raises(HyperParameterError, match="batch_size: 2, but SINGLE edits one request at a time"):
        plan_of(CONSECUTIVE, SingleHyperParams(model_name="m"), batch_size=2)


def test_a_single_round_has_no_carry_over() -> None:
    with pytest.raises(HyperParameterError, match="--carry-over: a single-round run has no last scoring"):
        plan_of(CONSECUTIVE, carry_over=True, protocol="single-round")


def test_a_single_round_has_no_self_consistency() -> None:
    with pytest.raises(HyperParameterError, match="--self-consistency: a single-round run has no last scoring"):
        plan_of(CONSECUTIVE, self_consistency=True, protocol="single-round")


def test_folders_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"name it with out="):
        plan_of(LIFELONG, resume=True)
    with pytest.raises(RunError, match="BATCH can't save its edits, so a consecutive run of it can't be resumed"):
        plan_of(CONSECUTIVE, out=tmp_path, resume=True)
    with pytest.raises(RunError, match="holds no run to resume"):
        plan_of(CONSECUTIVE, out=tmp_path, resume=True, protocol="single-round")
    folder = RunFolder(tmp_path / "run")
    folder.write_config({})
    folder.close()
    with pytest.raises(RunError, match="holds another run"):
        plan_of(LIFELONG, out=tmp_path / "run")
    assert plan_of(CONSECUTIVE, out=tmp_path / "run", resume=True, protocol="single-round").resume


def test_trackers_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trackers \(csv\) write into a run's folder"):
        plan_of(LIFELONG, trackers=["csv"])
    with pytest.raises(PluginError, match="no tracker is called 'abacus'"):
        plan_of(LIFELONG, trackers=["abacus"], out=tmp_path)
    with pytest.raises(PluginError, match="isn't installed"):
        plan_of(LIFELONG, trackers=["broken"], out=tmp_path)


def test_both_functions_pass_every_setting_to_the_experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []

    def stop(experiment: Experiment, out: Any, resume: bool) -> Plan:
        calls.append((experiment, out, resume))
        raise RunError("stopped by the test")

    monkeypatch.setattr(execution, "make_plan", stop)
    requests, hparams = [{"prompt": "p", "target_new": "t"}], BatchHyperParams(model_name="m")
    shared_settings: dict[str, Any] = {
        "eval_at": (3, 1),
        "eval_sample": 2,
        "out": tmp_path,
        "resume": True,
        "trackers": ["csv"],
        "task": "qa",
        "text": "a text",
        "data_name": "mine",
        "retention": [],
    }
    with pytest.raises(RunError, match="stopped by the test"):
        run_lifelong(None, None, requests, hparams, only_errors=True, **shared_settings)
    with pytest.raises(RunError, match="stopped by the test"):
        run_consecutive(
            None, None, requests, hparams, batch_size=3, consecutive=False, skip_unusable=True, **shared_settings
        )
    (lifelong, *lifelong_rest), (consecutive, *consecutive_rest) = calls
    assert lifelong_rest == consecutive_rest == [tmp_path, True]
    for experiment in (lifelong, consecutive):
        assert experiment.schedule == Schedule(None, (1, 3), 2)
        assert (experiment.hparams, experiment.trackers, experiment.task) == (hparams, ["csv"], "qa")
        assert (experiment.data.text, experiment.data.name, experiment.data.retention) == ("a text", "mine", [])
        assert [request.prompt for request in experiment.data.requests] == ["p"]
    assert (lifelong.loop, lifelong.only_errors, lifelong.protocol) == ("lifelong", True, "consecutive")
    assert (consecutive.loop, consecutive.batch_size) == ("consecutive", 3)
    assert (consecutive.protocol, consecutive.skip_unusable) == ("single-round", True)
