"""The MLflow tracker, with a fake of the package and, where it is installed, with the package itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.reporting.trackers.services import store_id, stored_id
from tests.support.tracker_points import (
    EXPECTED,
    POINTS,
    create_tracker,
    log_killed_and_resumed_run,
    needs_module,
    points_by_metric,
)


class FakeMlflow(ModuleType):
    """The part of mlflow that the tracker uses; as in mlflow, a step may have several values, a parameter only one."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.runs: dict[str, SimpleNamespace] = {}
        self.experiments: dict[str, str] = {}
        self.uris: list[str] = []

    def MlflowClient(self, tracking_uri: str) -> FakeMlflow:
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = str(len(self.experiments))
        return self.experiments[name]

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        assert experiment_id in self.experiments.values()
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = SimpleNamespace(name=run_name, metrics=[], params={}, status="RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def set_terminated(self, run_id: str) -> None:
        self.runs[run_id].status = "FINISHED"

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [metric for metric in self.runs[run_id].metrics if metric.key == key]

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id].metrics += metrics
        for param in params:
            assert param.key not in self.runs[run_id].params and len(param.value) <= 500
            self.runs[run_id].params[param.key] = param.value


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    entities = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # type: ignore[attr-defined]
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return fake


def _history(run: Any) -> dict[str, list[Any]]:
    return points_by_metric((metric.key, metric.step, metric.value) for metric in run.metrics)


def test_mlflow_has_every_point_of_a_resumed_run_once(mlflow: FakeMlflow, tmp_path: Path) -> None:
    log_killed_and_resumed_run("mlflow", tmp_path)
    (run,) = mlflow.runs.values()
    assert _history(run) == EXPECTED
    assert run.params == {"method": "GRACE", "hparams.eps": "1.0", "hparams.layers": "[1, 2]"}
    assert (run.status, run.name) == ("FINISHED", tmp_path.name)
    assert set(mlflow.uris) == {f"sqlite:///{tmp_path}/mlflow.db"}


def test_a_deleted_mlflow_run_is_replaced_by_a_new_one(
    mlflow: FakeMlflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal.jsonl").write_text("{}\n")
    store_id(tmp_path, "mlflow", "deleted")
    tracker = create_tracker("mlflow", tmp_path)
    tracker.log(*POINTS[0])
    assert _history(mlflow.runs["run0"])["ES"] == [(1, 1.0)]
    assert "starts a new run, since run deleted can't be resumed" in caplog.text
    assert stored_id(tmp_path, "mlflow") == "run0"


def test_mlflow_takes_uri_and_experiment_from_the_environment(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    create_tracker("mlflow", tmp_path).close()
    create_tracker("mlflow", tmp_path).close()
    assert (mlflow.uris, list(mlflow.experiments), len(mlflow.runs)) == (["http://here"] * 2, ["mine"], 2)


def test_an_unreachable_mlflow_server_is_refused(
    mlflow: FakeMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(mlflow, "get_experiment_by_name", refuse)
    with pytest.raises(PluginError, match=r"--track mlflow: can't start a run in sqlite:.*: nobody listens\. Set"):
        create_tracker("mlflow", tmp_path)


@pytest.fixture
def real_mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    return importlib.import_module("mlflow")


@needs_module("mlflow")
@needs_module("sqlalchemy")
def test_the_real_mlflow_records_every_point_of_a_resumed_run(real_mlflow: Any, tmp_path: Path) -> None:
    log_killed_and_resumed_run("mlflow", tmp_path)
    client = real_mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("easyedit-lifelong")
    (run,) = client.search_runs([experiment.experiment_id])
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert points == EXPECTED
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert run.data.params["hparams.layers"] == "[1, 2]"
